//! What a folder says about itself: `mini.toml`, and the git remote `mini`.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use mini_core::name::AppName;
use toml::{Table, Value};

use crate::failure::Failure;

pub(crate) const FILE: &str = "mini.toml";

/// `app` and `server` of `mini.toml`. A server by its name in the user's own file, never a URL:
/// what comes with somebody's source must not choose where a token goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Project {
    pub(crate) app: Option<AppName>,
    pub(crate) server: Option<String>,
}

impl Project {
    /// An absent file says nothing.
    pub(crate) fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                return Ok(Self::default());
            }
            Err(e) => return Err(Failure::io(format!("cannot read {}", path.display()), &e)),
        };
        Self::parse(&text).map_err(|e| Failure::failed(format!("{}: {e}", path.display())))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let table = text.parse::<Table>().map_err(|e| {
            let line = e.span().map(|s| text[..s.start.min(text.len())].matches('\n').count() + 1);
            let place = line.map_or(String::new(), |line| format!(" in line {line}"));
            format!("it is not valid TOML{place}: {}", e.message())
        })?;
        let text = |key: &str| match table.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("{key} must be a text in quotes")),
        };
        let app = text("app")?.map(|a| a.parse::<AppName>()).transpose();
        Ok(Self { app: app.map_err(|e| e.to_string())?, server: text("server")? })
    }
}

/// Writes `app = "…"` as the first line of the folder's `mini.toml`; the rest stays as it is.
pub(crate) fn remember(folder: &Path, app: &AppName) -> io::Result<()> {
    let path = folder.join(FILE);
    let rest = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e),
    };
    let rest = rest.strip_prefix('\u{feff}').unwrap_or(&rest);
    fs::write(path, format!("app = \"{app}\"\n{rest}"))
}

/// The app that the git remote `mini` of this folder names by its last path part; only if the
/// folder is the top of its work tree, since a folder inside is not what the remote stands for.
pub(crate) fn git_remote(folder: &Path) -> Result<Option<AppName>, Failure> {
    if !folder.join(".git").exists() {
        return Ok(None);
    }
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(["remote", "get-url", "mini"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    // No git, or no such remote: then the remote names nothing.
    let Some(output) = output.ok().filter(|o| o.status.success()) else {
        return Ok(None);
    };
    let url = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    app_of(&url).map(Some).ok_or_else(|| {
        Failure::usage(format!("the git remote `mini` ({url}) names no app"))
            .hint("pass --app NAME, or mend it with `git remote set-url mini URL`")
    })
}

fn app_of(url: &str) -> Option<AppName> {
    let last = url.trim_end_matches('/').rsplit(['/', ':']).next()?;
    last.strip_suffix(".git").unwrap_or(last).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_goes_to_the_top_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let app: AppName = "blue-sky".parse().unwrap();
        let path = folder.path().join(FILE);
        remember(folder.path(), &app).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "app = \"blue-sky\"\n");
        fs::write(&path, "# mine\n[future]\nx = 1\n").unwrap();
        remember(folder.path(), &app).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "app = \"blue-sky\"\n# mine\n[future]\nx = 1\n");
        assert_eq!(Project::read(folder.path()).unwrap().app, Some(app));
    }

    #[test]
    fn what_is_wrong_in_the_file_is_said() {
        assert!(Project::parse("app = 'a'\nserver = ").unwrap_err().contains("in line 2"));
        assert!(Project::parse("app = 5").unwrap_err().contains("app must be a text"));
        assert!(Project::parse("app = 'A b'").unwrap_err().contains("not allowed"));
        assert_eq!(Project::parse("[x]\ny = 1"), Ok(Project::default()));
    }

    #[test]
    fn remotes_name_apps_by_their_last_part() {
        let name = |url| app_of(url).map(|a| a.to_string());
        assert_eq!(name("http://mini.example.com/git/blue-sky.git").as_deref(), Some("blue-sky"));
        assert_eq!(name("mini@example.com:blue-sky").as_deref(), Some("blue-sky"));
        assert_eq!(name("ssh://mini@example.com/blue-sky/").as_deref(), Some("blue-sky"));
        assert_eq!(name("http://example.com/Not_An_App"), None);
    }
}
