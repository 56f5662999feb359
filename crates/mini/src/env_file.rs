//! `.env` files: `KEY=value` lines, as shells and most tools read them.
//!
//! `export KEY=…` and comments are allowed. Unquoted values end at the line end or before ` #`.
//! `'…'` is taken as it is; `"…"` knows `\n`, `\r`, `\t`, `\\`, `\"`, `\$` and a backslash at the
//! line end; both may span lines. Nothing is expanded: `$X` stays `$X`.

use mini_core::name::EnvName;

/// The variables in the order of the file; a name that comes twice has both.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let mut vars = Vec::new();
    let mut rest = text.as_str();
    let mut line = 1;
    while !rest.is_empty() {
        let used = match one(rest) {
            Ok((var, used)) => {
                vars.extend(var);
                used
            }
            Err(why) => return Err(format!("line {line}: {why}")),
        };
        line += rest[..used].matches('\n').count();
        rest = &rest[used..];
    }
    Ok(vars)
}

type Var = Option<(String, String)>;

/// One line, or one variable over several; with how much of the text it took.
fn one(text: &str) -> Result<(Var, usize), String> {
    let end = text.find('\n').map_or(text.len(), |at| at + 1);
    let line = text[..end].trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok((None, end));
    }
    let Some(equals) = text[..end].find('=') else {
        return Err(format!("{line:?} has no '='"));
    };
    let name = text[..equals].trim();
    let name = name.strip_prefix("export ").map_or(name, str::trim);
    name.parse::<EnvName>().map_err(|e| e.to_string())?;
    let after = &text[equals + 1..end];
    let blanks = after.len() - after.trim_start_matches([' ', '\t']).len();
    let start = equals + 1 + blanks;
    let (value, used) = match text[start..].chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let (value, length) = quoted(&text[start + 1..], quote)?;
            let used = start + 1 + length;
            let end = text[used..].find('\n').map_or(text.len(), |at| used + at + 1);
            let tail = text[used..end].trim();
            if !tail.is_empty() && !tail.starts_with('#') {
                return Err(format!("{tail:?} follows the closing quote of {name}"));
            }
            (value, end)
        }
        _ => (unquoted(&text[start..end]).to_owned(), end),
    };
    Ok((Some((name.to_owned(), value)), used))
}

fn unquoted(text: &str) -> &str {
    let comment =
        text.match_indices('#').find(|(at, _)| *at == 0 || text[..*at].ends_with([' ', '\t']));
    text[..comment.map_or(text.len(), |(at, _)| at)].trim()
}

/// The value up to the closing quote, and how much text that took.
fn quoted(text: &str, quote: char) -> Result<(String, usize), String> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => return Ok((value, at + 1)),
            '\\' if quote == '"' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 'r')) => value.push('\r'),
                Some((_, 't')) => value.push('\t'),
                Some((_, '\n')) => {}
                Some((_, c @ ('\\' | '"' | '$' | '`'))) => value.push(c),
                Some((_, c)) => value.extend(['\\', c]),
                None => break,
            },
            _ => value.push(c),
        }
    }
    Err(format!("the quote {quote} is not closed"))
}

/// `KEY=value`, so that [`parse`] reads the same value again.
pub(crate) fn line(name: &str, value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@,+%=?&~".contains(c);
    if value.chars().all(plain) {
        return format!("{name}={value}");
    }
    if !value.contains(['\'', '\n', '\r']) {
        return format!("{name}='{value}'");
    }
    let mut out = String::new();
    for c in value.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\\' | '"' | '$' | '`' => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    format!("{name}=\"{out}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> String {
        let vars = parse(text).unwrap();
        assert_eq!(vars.len(), 1, "{vars:?}");
        vars[0].1.clone()
    }

    #[test]
    fn values_end_where_a_shell_would_end_them() {
        assert_eq!(value("A=b c  # comment\n"), "b c");
        assert_eq!(value("A=b#c"), "b#c");
        assert_eq!(value("export A = b\r\n"), "b");
        assert_eq!(value("A="), "");
        assert_eq!(value("A= # nothing"), "");
        assert_eq!(value("A=b=c"), "b=c");
        assert_eq!(value("A='it is $X \\n' # x"), "it is $X \\n");
        assert_eq!(value(r#"A="a\nb \"q\" \$X \d""#), "a\nb \"q\" $X \\d");
    }

    #[test]
    fn quotes_span_lines() {
        let vars = parse("# key\nKEY=\"-----BEGIN\nabc\n-----END\"\n\nB='x\ny'\nC=1").unwrap();
        let names: Vec<&str> = vars.iter().map(|(k, _)| k.as_str()).collect();
        assert_eq!(names, ["KEY", "B", "C"]);
        assert_eq!(vars[0].1, "-----BEGIN\nabc\n-----END");
        assert_eq!(vars[1].1, "x\ny");
    }

    #[test]
    fn errors_name_the_line() {
        assert!(parse("A=1\n\nnonsense").unwrap_err().starts_with("line 3: "));
        assert!(parse("A='1\n2'\n2B=1").unwrap_err().starts_with("line 3: "));
        assert!(parse("A=\"1").unwrap_err().contains("not closed"));
        assert!(parse("A='1'x").unwrap_err().contains("follows the closing quote"));
    }

    #[test]
    fn what_is_listed_can_be_read_again() {
        for text in
            ["", "plain", "two words", "it's", "a\nb", "\"$X\" `y` \\n", "# no", "ü", "a'\r\n"]
        {
            assert_eq!(value(&line("A", text)), text, "{}", line("A", text));
        }
    }
}
