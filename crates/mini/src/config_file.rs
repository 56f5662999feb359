//! The CLI's own file: which servers there are, and the token of each.
//!
//! ```toml
//! current = "local"
//! [servers.local]
//! host = "https://203.0.113.7"
//! token = "mini_…"
//! fingerprint = "3f1c…"
//! ```
//!
//! Keys that this version does not know are kept. The file is 0600 and replaced atomically.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use mini_api::client::{Endpoint, Fingerprint};
use toml::{Table, Value};

use crate::failure::Failure;
use crate::settings::Vars;
use crate::system;

#[derive(Debug, Clone)]
pub(crate) struct ConfigFile {
    pub(crate) path: PathBuf,
    table: Table,
}

/// One server as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) token: Option<String>,
    /// The pinned certificate.
    pub(crate) fingerprint: Option<Fingerprint>,
}

/// Where the file is: `$MINI_CONFIG`, or `mini/config.toml` in the system's place for settings.
pub(crate) fn path(vars: &Vars) -> Result<PathBuf, Failure> {
    if let Some(path) = vars.get("MINI_CONFIG") {
        return Ok(PathBuf::from(path));
    }
    let folder = system::config_folder(vars).map(|folder| folder.join("mini"));
    folder.map(|folder| folder.join("config.toml")).ok_or_else(|| {
        let home = system::HOME;
        Failure::failed(format!("there is no place for the configuration: {home} is not set"))
            .hint("set MINI_CONFIG to the path of a file")
    })
}

impl ConfigFile {
    /// Knows nothing: what there is where no file can be.
    pub(crate) fn empty() -> Self {
        Self { path: PathBuf::new(), table: Table::new() }
    }

    /// An absent file is an empty one. The text is a warning, if there is one to give.
    pub(crate) fn read(path: PathBuf) -> Result<(Self, Option<String>), Failure> {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Failure::io(format!("cannot read {}", path.display()), &e)),
        };
        let table = text.parse::<Table>().map_err(|e| {
            Failure::failed(format!("{} is not valid TOML: {}", path.display(), e.message()))
                .hint("mend it, or remove it and begin with `mini config set-host URL`")
        })?;
        let file = Self { path, table };
        let warning = file.warning();
        Ok((file, warning))
    }

    fn warning(&self) -> Option<String> {
        let path = self.path.display();
        let open = system::is_open_to_others(&self.path)
            && self.servers().iter().any(|s| s.token.is_some());
        open.then(|| format!("{path} holds tokens and is open to others; run: chmod 600 {path}"))
    }

    /// The server that is used when nothing else is said.
    pub(crate) fn current(&self) -> Option<&str> {
        self.table.get("current").and_then(Value::as_str)
    }

    /// By name, in order. Entries whose host cannot be used are left out.
    pub(crate) fn servers(&self) -> Vec<Known> {
        let servers = self.table.get("servers").and_then(Value::as_table);
        let names = servers.into_iter().flat_map(|t| t.keys());
        names.filter_map(|name| self.server(name).ok().flatten()).collect()
    }

    /// None if there is no such server.
    pub(crate) fn server(&self, name: &str) -> Result<Option<Known>, Failure> {
        let Some(entry) = self.table.get("servers").and_then(|s| s.get(name)) else {
            return Ok(None);
        };
        let path = self.path.display();
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let host = text("host").ok_or_else(|| {
            Failure::failed(format!("server {name:?} in {path} has no host"))
                .hint(format!("`mini config set-host URL --as {name}` sets it"))
        })?;
        let endpoint = host.parse().map_err(|e| {
            Failure::failed(format!("server {name:?} in {path}: {e}"))
                .hint(format!("`mini config set-host URL --as {name}` sets another"))
        })?;
        let token = text("token").map(str::to_owned);
        let fingerprint = text("fingerprint").map(str::parse).transpose().map_err(|e| {
            Failure::failed(format!("server {name:?} in {path}: {e}")).hint(format!(
                "`mini config set-host {host} --as {name} --fingerprint SHA256` sets another"
            ))
        })?;
        Ok(Some(Known { name: name.to_owned(), endpoint, token, fingerprint }))
    }

    /// The server with that very host.
    pub(crate) fn with_host(&self, endpoint: &Endpoint) -> Option<Known> {
        self.servers().into_iter().find(|s| s.endpoint == *endpoint)
    }

    /// Names a host. A name that had another host loses its token, fingerprint and all; the answer
    /// says whether there was a token.
    pub(crate) fn set_host(&mut self, name: &str, endpoint: &Endpoint) -> bool {
        let same = matches!(self.server(name), Ok(Some(known)) if known.endpoint == *endpoint);
        let entry = self.entry(name);
        let mut dropped = false;
        if !same {
            dropped = entry.contains_key("token");
            entry.clear();
        }
        entry.insert("host".to_owned(), Value::String(endpoint.to_string()));
        dropped
    }

    pub(crate) fn set_token(&mut self, name: &str, token: &str) {
        self.entry(name).insert("token".to_owned(), Value::String(token.to_owned()));
    }

    pub(crate) fn set_fingerprint(&mut self, name: &str, fingerprint: Fingerprint) {
        let value = Value::String(fingerprint.to_string());
        self.entry(name).insert("fingerprint".to_owned(), value);
    }

    pub(crate) fn set_current(&mut self, name: &str) {
        self.table.insert("current".to_owned(), Value::String(name.to_owned()));
    }

    /// Whether there was one of that name.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        if self.current() == Some(name) {
            self.table.remove("current");
        }
        let servers = self.table.get_mut("servers").and_then(Value::as_table_mut);
        servers.is_some_and(|s| s.remove(name).is_some())
    }

    fn entry(&mut self, name: &str) -> &mut Table {
        fn table<'a>(parent: &'a mut Table, key: &str) -> &'a mut Table {
            let value = parent.entry(key).or_insert_with(|| Value::Table(Table::new()));
            if !value.is_table() {
                *value = Value::Table(Table::new());
            }
            value.as_table_mut().expect("it was made a table just now")
        }
        table(table(&mut self.table, "servers"), name)
    }

    /// Writes a new file beside the old one and puts it in its place.
    pub(crate) fn save(&self) -> Result<(), Failure> {
        let failed =
            |e: io::Error| Failure::io(format!("cannot write {}", self.path.display()), &e);
        let text = toml::to_string_pretty(&self.table)
            .map_err(|e| Failure::failed(format!("cannot write the configuration: {e}")))?;
        // A link (as of dotfile managers) stays one: its target is replaced.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        if !folder.is_dir() {
            system::create_private_folder(folder).map_err(failed)?;
        }
        let new = folder.join(format!(".config.toml.{}", std::process::id()));
        let written = system::create_private_file(&new)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&new, &path));
        written.map_err(|e| {
            // What is left of the try is of no use; the first error is the one to tell.
            let _ = fs::remove_file(&new);
            failed(e)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, ConfigFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/config.toml");
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        let (file, _) = ConfigFile::read(path).unwrap();
        (folder, file)
    }

    const ONE: &str = "future = 1\ncurrent = 'a'\n[servers.a]\nhost = 'http://a'\ntoken = 't'\n\
                       later = 'f'\n";

    #[test]
    fn a_new_host_under_an_old_name_loses_the_token() {
        let (_folder, mut file) = file(ONE);
        assert!(!file.set_host("a", &"http://A:80".parse().unwrap()));
        assert_eq!(file.server("a").unwrap().unwrap().token.as_deref(), Some("t"));
        assert!(file.set_host("a", &"http://b".parse().unwrap()));
        assert_eq!(file.server("a").unwrap().unwrap().token, None);
    }

    #[test]
    fn a_fingerprint_is_kept_with_its_host_and_a_bad_one_is_told() {
        let (_folder, mut file) = file(ONE);
        let pin: Fingerprint = "ab".repeat(32).parse().unwrap();
        file.set_fingerprint("a", pin);
        file.set_host("a", &"http://a".parse().unwrap());
        assert_eq!(file.server("a").unwrap().unwrap().fingerprint, Some(pin));
        file.set_host("a", &"https://a".parse().unwrap());
        assert_eq!(file.server("a").unwrap().unwrap().fingerprint, None);
        file.entry("a").insert("fingerprint".into(), Value::String("ab".into()));
        assert!(file.server("a").unwrap_err().message.contains("64 hex digits"));
    }

    #[test]
    fn saved_files_are_private_and_keep_what_they_do_not_know() {
        let (_folder, mut file) = file(ONE);
        assert!(file.warning().unwrap().contains("chmod 600"));
        file.set_token("a", "new");
        file.save().unwrap();
        let (again, warning) = ConfigFile::read(file.path.clone()).unwrap();
        assert_eq!(warning, None);
        assert_eq!(again.server("a").unwrap().unwrap().token.as_deref(), Some("new"));
        let text = fs::read_to_string(&file.path).unwrap();
        assert!(text.contains("future = 1") && text.contains("later = \"f\""), "{text}");
        assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(file.path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn an_absent_file_is_empty_and_its_folder_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mini/config.toml");
        let (mut file, _) = ConfigFile::read(path.clone()).unwrap();
        assert_eq!(file.current(), None);
        file.set_host("x", &"unix:/run/x".parse().unwrap());
        file.save().unwrap();
        let mode = fs::metadata(path.parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_server_that_cannot_be_used_is_told_by_name() {
        let (_folder, file) = file("[servers.a]\nhost = 'ssh://a'\n[servers.b]\n");
        assert!(file.server("a").unwrap_err().message.contains("not ssh://"));
        assert!(file.server("b").unwrap_err().message.contains("has no host"));
        assert!(file.servers().is_empty());
    }
}
