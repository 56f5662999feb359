//! `.dockerignore`, with the semantics of the engine's own client: Go's `filepath.Match` and
//! `**`, a pattern matches what lies below too, `!` takes back, and the last match wins
//! (github.com/moby/patternmatcher, and its `ignorefile`).
//!
//! Patterns are run as a small automaton over all their places at once, so that no pattern takes
//! longer than its length times the path's.

/// The patterns of one file, in order.
#[derive(Debug, Default)]
pub(crate) struct Ignored {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    /// Begins with `!`: takes back what matched before.
    takes_back: bool,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Char(char),
    /// `?`: any character but `/`.
    One,
    /// `*`: any number of those.
    Many,
    /// `**/`: whole folders, or none: what [`Part::Within`] takes, or nothing.
    Folders,
    /// Anything up to and including a `/`.
    Within,
    /// `**` at the end: anything.
    Rest,
    /// `[a-z]`, `[^a-z]`.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Ignored {
    /// The error names the line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patterns = Vec::new();
        for (number, line) in text.lines().enumerate() {
            // Only a '#' in the first column is a comment.
            let trimmed = line.trim();
            if line.starts_with('#') || trimmed.is_empty() {
                continue;
            }
            let (takes_back, glob) = match trimmed.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, trimmed),
            };
            let told = |why: &str| format!("line {}: {trimmed:?} {why}", number + 1);
            if glob.is_empty() {
                return Err(told("takes back nothing"));
            }
            let glob = clean(glob);
            let parts = compile(&glob).ok_or_else(|| told("is not a pattern"))?;
            patterns.push(Pattern { takes_back, parts });
        }
        Ok(Self { patterns })
    }

    /// Whether the entry at `path` (relative, `/`-separated) is left out.
    ///
    /// A folder's matches count for what lies in it, but only of patterns that had a say there: as
    /// the engine's clients walk (`MatchesUsingParentResults`), `!a` takes nothing back of `a/b`
    /// while `a` itself is not ignored.
    pub(crate) fn matches(&self, path: &str) -> bool {
        let mut had = vec![false; self.patterns.len()];
        let mut matched = false;
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for entry in ends.map(|end| &path[..end]) {
            matched = false;
            for (pattern, had) in self.patterns.iter().zip(&mut had) {
                // Neither ignoring the ignored nor taking back the taken changes anything.
                *had = *had || (pattern.takes_back == matched && pattern.matches(entry));
                if *had {
                    matched = !pattern.takes_back;
                }
            }
        }
        matched
    }

    /// Whether nothing below an ignored folder can be taken back, so that it need not be read.
    pub(crate) fn may_skip_below(&self) -> bool {
        !self.patterns.iter().any(|p| p.takes_back)
    }
}

impl Pattern {
    fn matches(&self, path: &str) -> bool {
        let end = self.parts.len();
        let mut at = vec![false; end + 1];
        at[0] = true;
        self.skip_empty(&mut at);
        for c in path.chars() {
            let mut next = vec![false; end + 1];
            for (i, part) in self.parts.iter().enumerate().filter(|(i, _)| at[*i]) {
                match part {
                    Part::Char(wanted) => next[i + 1] |= *wanted == c,
                    Part::One => next[i + 1] |= c != '/',
                    Part::Many => next[i] |= c != '/',
                    Part::Folders => {}
                    Part::Within => {
                        next[i] = true;
                        next[i + 1] |= c == '/';
                    }
                    Part::Rest => next[i] = true,
                    Part::Class { negated, ranges } => {
                        let within = ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
                        next[i + 1] |= within != *negated;
                    }
                }
            }
            self.skip_empty(&mut next);
            at = next;
        }
        at[end]
    }

    /// Parts that may match nothing are passed without a character.
    fn skip_empty(&self, at: &mut [bool]) {
        for (i, part) in self.parts.iter().enumerate() {
            if !at[i] {
                continue;
            }
            match part {
                Part::Many | Part::Rest => at[i + 1] = true,
                Part::Folders => {
                    at[i + 1] = true;
                    at[i + 2] = true;
                }
                _ => {}
            }
        }
    }
}

/// Go's `filepath.Clean`, and without a leading `/`: the folder is the root.
fn clean(glob: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in glob.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => drop(parts.pop()),
            ".." if glob.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

fn compile(glob: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut chars = glob.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                match chars.peek() {
                    None => parts.push(Part::Rest),
                    Some(_) => parts.extend([Part::Folders, Part::Within]),
                }
            }
            '*' => parts.push(Part::Many),
            '?' => parts.push(Part::One),
            // A trailing backslash is a bad pattern to filepath.Match.
            '\\' => parts.push(Part::Char(chars.next()?)),
            '[' => parts.push(class(&mut chars)?),
            c => parts.push(Part::Char(c)),
        }
    }
    Some(parts)
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Part> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    let one = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next()? {
        '\\' => chars.next(),
        '-' | ']' => None,
        c => Some(c),
    };
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Some(Part::Class { negated, ranges });
        }
        let low = one(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { one(chars)? } else { low };
        ranges.push((low, high));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(patterns: &str, path: &str) -> bool {
        Ignored::parse(patterns).unwrap().matches(path)
    }

    /// Cases of moby/patternmatcher's documentation and of the engine's reference for the file.
    #[test]
    fn patterns_match_as_the_engines_client_has_it() {
        for (pattern, path, expected) in [
            ("**", "file", true),
            ("**", "dir/file", true),
            ("**/", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir/dir2/file", true),
            ("dir/**", "other/dir/file", false),
            ("**/dir", "dir", true),
            ("**/dir", "a/b/dir/file", true),
            ("**/file", "dir/dir/file", true),
            ("**/file", "file", true),
            ("**file", "dir/dir/file", true),
            ("**/*.txt", "a/b/c.txt", true),
            ("**/*.txt", "a/b/c.md", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/x/yb", false),
            ("*.txt", "a.txt", true),
            ("*.txt", "sub/a.txt", false),
            ("*/temp*", "somedir/temporary.txt", true),
            ("*/temp*", "temporary.txt", false),
            ("*/*/temp*", "somedir/subdir/temporary.txt", true),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("temp?", "temp/", false),
            ("node_modules", "node_modules/a/b.js", true),
            ("node_modules", "web/node_modules/a", false),
            ("/abs", "abs", true),
            ("./rel/", "rel/x", true),
            ("a/../b", "b", true),
            ("a[b-d]e", "ace", true),
            ("a[b-d]e", "aae", false),
            ("a[^b-d]e", "aze", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("a.b", "axb", false),
            ("a(b", "a(b", true),
            ("a$", "a$", true),
            ("  padded  ", "padded", true),
            ("#c", "#c", false),
            (" #c", "#c", true),
            (".*", ".hidden", true),
            ("*", "a/b/c", true),
        ] {
            assert_eq!(ignored(pattern, path), expected, "{pattern:?} on {path:?}");
        }
    }

    #[test]
    fn the_last_match_wins_and_takes_back_below_an_ignored_folder() {
        let readme = "*.md\n!README.md\n";
        assert!(ignored(readme, "NEWS.md"));
        assert!(!ignored(readme, "README.md"));
        assert!(ignored("*.md\n!README*.md\nREADME-secret.md", "README-secret.md"));
        assert!(ignored("!README.md\n*.md", "README.md"));
        assert!(!ignored("dir\n!dir/keep", "dir/keep/x"));
        assert!(ignored("dir\n!dir/keep", "dir/other"));
        assert!(!ignored("*\n!src\n! package.json", "src/a/b.js"));
        assert!(!ignored("*\n!src\n! package.json", "package.json"));
        assert!(ignored("*\n!src", "other"));
        // Cases found by comparing with the engine's own client.
        assert!(ignored("a/[ab]\n!a", "a/b/f"));
        assert!(ignored("**/b.md\n![^a]", "b/b.md"));
        assert!(!ignored("a\n!a\na/x", "a/y"));
    }

    #[test]
    fn bad_patterns_are_told_by_line() {
        assert!(Ignored::parse("a\n\n[").unwrap_err().starts_with("line 3: "));
        assert!(Ignored::parse("!").unwrap_err().contains("takes back nothing"));
        assert!(Ignored::parse("a[]a]").is_err());
        assert!(Ignored::parse("a\\").is_err());
    }

    #[test]
    fn no_pattern_takes_long() {
        let pattern = format!("{}b", "**/*a*".repeat(200));
        assert!(!ignored(&pattern, &"a".repeat(2000)));
    }
}
