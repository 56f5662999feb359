//! `Procfile`: which processes an app has, one `<type>: <command>` a line (Heroku's format).

use std::collections::BTreeMap;

use crate::name::ProcessType;

/// A Procfile that cannot be used. `Display` names the line, from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Procfile line {line}: {reason}")]
pub struct BadProcfile {
    pub line: usize,
    pub reason: String,
}

/// What needs a shell to mean what it says.
const SHELL: [char; 15] =
    ['$', '`', '*', '?', '[', '~', '{', '#', '|', '&', ';', '<', '>', '(', ')'];
/// Of these, what makes more than one command of a line.
const SEVERAL: [char; 5] = ['|', '&', ';', '(', ')'];

/// The words to run for each process type. Blank lines and lines that begin with `#` say nothing.
pub fn parse(text: &str) -> Result<BTreeMap<ProcessType, Vec<String>>, BadProcfile> {
    let mut found = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let bad = |reason: String| BadProcfile { line: index + 1, reason };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, command) =
            line.split_once(':').ok_or_else(|| bad("it is not `<type>: <command>`".into()))?;
        let name: ProcessType = name.trim().parse().map_err(|e| bad(format!("{e}")))?;
        let words = words(command.trim()).map_err(bad)?;
        if words.is_empty() {
            return Err(bad(format!("{name} has no command")));
        }
        if found.insert(name.clone(), words).is_some() {
            return Err(bad(format!("{name} stands there twice")));
        }
    }
    Ok(found)
}

/// A command as words: through the image's `/bin/sh` only where it needs a shell.
fn words(command: &str) -> Result<Vec<String>, String> {
    if command.contains(SHELL) || assigns(command) {
        // One command takes the shell's place, so that it gets the signals.
        let one = !command.contains(SEVERAL) && !assigns(command);
        let text = if one { format!("exec {command}") } else { command.to_owned() };
        return Ok(vec!["/bin/sh".into(), "-c".into(), text]);
    }
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = command.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('\\', None | Some('"')) => {
                let next = characters.next().ok_or("it ends with a backslash")?;
                word.get_or_insert_default().push(next);
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(quote) = quote {
        return Err(format!("a {quote} is not closed"));
    }
    words.extend(word);
    Ok(words)
}

/// Whether it begins with `NAME=value`, which only a shell understands.
fn assigns(command: &str) -> bool {
    let first = command.split_whitespace().next().unwrap_or_default();
    first.split_once('=').is_some_and(|(name, _)| name.parse::<crate::name::EnvName>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Vec<String> {
        parse(&format!("web: {line}")).unwrap().remove(&ProcessType::web()).unwrap()
    }

    #[test]
    fn commands_become_words_and_a_shell_runs_only_what_needs_one() {
        assert_eq!(one("node server.js"), ["node", "server.js"]);
        assert_eq!(
            one(r#"run "two words" 'a"b' c\ d """#),
            ["run", "two words", "a\"b", "c d", ""]
        );
        assert_eq!(one("gunicorn -b :$PORT app"), ["/bin/sh", "-c", "exec gunicorn -b :$PORT app"]);
        assert_eq!(one("migrate && serve"), ["/bin/sh", "-c", "migrate && serve"]);
        assert_eq!(one("A=1 serve"), ["/bin/sh", "-c", "A=1 serve"]);
    }

    #[test]
    fn a_bad_line_is_named_with_its_reason() {
        let reason = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(reason("web: a\n\nnonsense"), "Procfile line 3: it is not `<type>: <command>`");
        assert_eq!(reason("web:"), "Procfile line 1: web has no command");
        assert_eq!(reason("web: a\nweb: b"), "Procfile line 2: web stands there twice");
        assert_eq!(reason("web: say 'hi"), "Procfile line 1: a ' is not closed");
        assert!(reason("we b: a").starts_with("Procfile line 1: process type \"we b\""));
    }

    #[test]
    fn every_type_is_found_and_comments_are_not() {
        let all = parse("# mine\nweb: serve\r\n\nworker_2: work: hard\n").unwrap();
        let names: Vec<&str> = all.keys().map(ProcessType::as_str).collect();
        assert_eq!(names, ["web", "worker_2"]);
        assert_eq!(all[&"worker_2".parse().unwrap()], ["work:", "hard"]);
    }
}
