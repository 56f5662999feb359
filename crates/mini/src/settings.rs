//! Flags, environment, `mini.toml` and the config file, resolved into what a command needs.
//!
//! One rule is above all others: a token belongs to one host and is never sent to another. A
//! token of the config file goes to that entry's host; `MINI_TOKEN` goes to `MINI_HOST`, and
//! without `MINI_HOST` nowhere, since nothing says whose it is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use mini_api::client::{Endpoint, Fingerprint};
use mini_core::name::AppName;

use crate::config_file::ConfigFile;
use crate::failure::Failure;
use crate::project::{Project, git_remote};
use crate::system;

/// The environment, read once. An empty variable counts as unset.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vars(HashMap<String, String>);

impl Vars {
    pub(crate) fn of_process() -> Self {
        let text = |(k, v): (std::ffi::OsString, std::ffi::OsString)| {
            Some((k.into_string().ok()?, v.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    #[cfg(test)]
    pub(crate) fn of_pairs(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }
}

/// The flags that say where.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) host: Option<String>,
    pub(crate) server: Option<String>,
    pub(crate) app: Option<AppName>,
    /// Every `--app`, for what may be about several.
    pub(crate) apps: Vec<AppName>,
}

/// The server that a command talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) endpoint: Endpoint,
    pub(crate) token: Option<String>,
    /// The certificate that is believed, beside those of the system's authorities.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// Its name in the config file.
    pub(crate) name: Option<String>,
    /// Where the choice comes from: `--host`, `MINI_SERVER`, `mini.toml`, ….
    pub(crate) from: &'static str,
    /// Worth a line on stderr.
    pub(crate) note: Option<String>,
}

/// Chooses the server. `socket` is the admin socket of this machine, if it can be used.
pub(crate) fn target(
    asked: &Asked,
    vars: &Vars,
    file: &ConfigFile,
    project: &Project,
    socket: Option<PathBuf>,
) -> Result<Target, Failure> {
    let env_host = vars.get("MINI_HOST").map(|h| host(h, "MINI_HOST")).transpose();
    let by_host = |endpoint: Endpoint, from| {
        let known = file.with_host(&endpoint);
        let (name, token, fingerprint) =
            known.map_or((None, None, None), |k| (Some(k.name), k.token, k.fingerprint));
        Target { endpoint, token, fingerprint, name, from, note: None }
    };
    let mut target = if let Some(text) = &asked.host {
        by_host(host(text, "--host")?, "--host")
    } else if let Some(name) = &asked.server {
        by_name(file, name, "--server")?
    } else if let Some(endpoint) = env_host.clone()? {
        by_host(endpoint, "MINI_HOST")
    } else if let Some(name) = vars.get("MINI_SERVER") {
        by_name(file, name, "MINI_SERVER")?
    } else if let Some(name) = &project.server {
        by_name(file, name, "mini.toml")?
    } else if let Some(name) = file.current() {
        by_name(file, name, "the config file")?
    } else if !file.servers().is_empty() {
        return Err(Failure::failed("no server is chosen")
            .hint("`mini config use NAME` chooses one; `mini config list` lists them"));
    } else if let Some(path) = socket {
        by_host(Endpoint::Unix(path), "this machine's admin socket")
    } else {
        return Err(Failure::failed("no server is configured").hint(
            "`mini config set-host URL` names one, such as https://203.0.113.7 or http://localhost",
        ));
    };
    if let Some(text) = vars.get("MINI_FINGERPRINT")
        && env_host.as_ref().is_ok_and(|host| host.as_ref() == Some(&target.endpoint))
    {
        let pin = text.parse().map_err(|e| Failure::usage(format!("MINI_FINGERPRINT: {e}")))?;
        target.fingerprint = Some(pin);
    }
    if let Some(token) = vars.get("MINI_TOKEN") {
        match &env_host {
            Ok(Some(endpoint)) if *endpoint == target.endpoint => {
                target.token = Some(token.to_owned());
            }
            Ok(None) => {
                target.note = Some(
                    "MINI_TOKEN is not used: nothing says whose it is; set MINI_HOST too"
                        .to_owned(),
                );
            }
            _ => {}
        }
    }
    Ok(target)
}

fn host(text: &str, from: &str) -> Result<Endpoint, Failure> {
    text.parse().map_err(|e| Failure::usage(format!("{from}: {e}")))
}

fn by_name(file: &ConfigFile, name: &str, from: &'static str) -> Result<Target, Failure> {
    let known = file.server(name)?.ok_or_else(|| {
        Failure::failed(format!("there is no server {name:?} (from {from})"))
            .hint(format!("`mini config set-host URL --as {name}` adds it"))
    })?;
    Ok(Target {
        endpoint: known.endpoint,
        token: known.token,
        fingerprint: known.fingerprint,
        name: Some(known.name),
        from,
        note: None,
    })
}

/// The admin socket of a server on this machine, if this user may connect to it.
pub(crate) fn admin_socket(vars: &Vars) -> Option<PathBuf> {
    let folder = vars.get("MINID_DATA_DIR").unwrap_or("/var/lib/mini");
    let path = Path::new(folder).join("admin.sock");
    (path.is_absolute() && system::may_connect(&path)).then_some(path)
}

/// The app: `--app`, `MINI_APP`, `mini.toml`, the git remote `mini`; never the folder's name.
pub(crate) fn app(
    asked: &Asked,
    vars: &Vars,
    project: &Project,
    folder: &Path,
) -> Result<Option<AppName>, Failure> {
    if let Some(app) = &asked.app {
        return Ok(Some(app.clone()));
    }
    if let Some(text) = vars.get("MINI_APP") {
        let app = text.parse().map_err(|e| Failure::usage(format!("MINI_APP: {e}")))?;
        return Ok(Some(app));
    }
    match &project.app {
        Some(app) => Ok(Some(app.clone())),
        None => git_remote(folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    const FILE: &str = "current = 'a'\n\
        [servers.a]\nhost = 'http://a.test'\ntoken = 'token-a'\n\
        [servers.b]\nhost = 'http://b.test:8080'\ntoken = 'token-b'\n";

    struct Case {
        asked: Asked,
        vars: Vec<(&'static str, &'static str)>,
        file: &'static str,
        project: Project,
        socket: Option<PathBuf>,
    }

    impl Default for Case {
        fn default() -> Self {
            let (asked, project) = Default::default();
            Self { asked, vars: Vec::new(), file: FILE, project, socket: None }
        }
    }

    impl Case {
        fn resolve(&self) -> Result<Target, Failure> {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("config.toml");
            std::fs::write(&path, self.file).unwrap();
            let (file, _) = ConfigFile::read(path).unwrap();
            target(&self.asked, &vars(&self.vars), &file, &self.project, self.socket.clone())
        }

        fn host_and_token(&self) -> (String, Option<String>) {
            let target = self.resolve().unwrap();
            (target.endpoint.to_string(), target.token)
        }
    }

    fn vars(pairs: &[(&str, &str)]) -> Vars {
        Vars::of_pairs(pairs)
    }

    fn pair(host: &str, token: Option<&str>) -> (String, Option<String>) {
        (host.to_owned(), token.map(str::to_owned))
    }

    fn flag_host(host: &str) -> Asked {
        Asked { host: Some(host.into()), ..Asked::default() }
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_files() {
        let project = Project { server: Some("b".into()), app: None };
        let mut case = Case { project, ..Case::default() };
        assert_eq!(case.resolve().unwrap().from, "mini.toml");
        case.vars = vec![("MINI_SERVER", "a")];
        assert_eq!(case.resolve().unwrap().from, "MINI_SERVER");
        case.vars.push(("MINI_HOST", "http://c.test"));
        assert_eq!(case.host_and_token(), pair("http://c.test", None));
        case.asked.server = Some("b".into());
        assert_eq!(case.host_and_token(), pair("http://b.test:8080", Some("token-b")));
        case.asked = flag_host("http://a.test");
        assert_eq!(case.host_and_token(), pair("http://a.test", Some("token-a")));
    }

    #[test]
    fn a_token_of_the_file_goes_to_its_own_host_only() {
        for host in ["http://c.test", "http://a.test:81", "http://b.test", "http://x.a.test"] {
            let case = Case { asked: flag_host(host), ..Case::default() };
            assert_eq!(case.host_and_token().1, None, "{host}");
            let case = Case { vars: vec![("MINI_HOST", host)], ..Case::default() };
            assert_eq!(case.host_and_token().1, None, "{host}");
        }
        let case = Case { asked: flag_host("http://A.TEST:80/"), ..Case::default() };
        assert_eq!(case.host_and_token(), pair("http://a.test", Some("token-a")));
    }

    #[test]
    fn the_token_of_the_environment_goes_to_the_host_of_the_environment_only() {
        let env = vec![("MINI_HOST", "http://c.test"), ("MINI_TOKEN", "token-c")];
        let case = Case { vars: env.clone(), ..Case::default() };
        assert_eq!(case.host_and_token(), pair("http://c.test", Some("token-c")));
        let asked = Asked { server: Some("a".into()), ..Asked::default() };
        let case = Case { vars: env.clone(), asked, ..Case::default() };
        assert_eq!(case.host_and_token(), pair("http://a.test", Some("token-a")));
        let case = Case { vars: env, asked: flag_host("http://d.test"), ..Case::default() };
        assert_eq!(case.host_and_token(), pair("http://d.test", None));
    }

    #[test]
    fn the_fingerprint_of_the_environment_is_for_its_host_only() {
        let pin = "ab".repeat(32);
        let pin = pin.as_str();
        let pin_of = |env: Vec<(&'static str, &'static str)>, asked: Asked| {
            let mut case = Case { vars: env, asked, ..Case::default() };
            case.vars.push(("MINI_FINGERPRINT", String::leak(pin.to_owned())));
            case.resolve().map(|target| target.fingerprint.map(|f| f.to_string()))
        };
        let env = vec![("MINI_HOST", "https://c.test")];
        assert_eq!(pin_of(env.clone(), Asked::default()).unwrap().as_deref(), Some(pin));
        assert_eq!(pin_of(env, flag_host("https://d.test")).unwrap(), None);
        assert_eq!(pin_of(Vec::new(), Asked::default()).unwrap(), None);
    }

    #[test]
    fn a_token_without_a_host_is_sent_to_nobody() {
        let case = Case { vars: vec![("MINI_TOKEN", "token-x")], ..Case::default() };
        let target = case.resolve().unwrap();
        assert_eq!(target.token.as_deref(), Some("token-a"));
        assert!(target.note.unwrap().contains("set MINI_HOST too"));
        let case = Case { asked: flag_host("http://d.test"), ..case };
        assert_eq!(case.host_and_token().1, None);
    }

    #[test]
    fn the_admin_socket_is_used_only_where_no_server_is_configured() {
        let socket = Some(PathBuf::from("/data/admin.sock"));
        let case = Case { socket: socket.clone(), ..Case::default() };
        assert_eq!(case.host_and_token().0, "http://a.test");
        let case = Case { socket, file: "", ..Case::default() };
        assert_eq!(case.host_and_token(), pair("unix:/data/admin.sock", None));
        let none = Case { file: "", ..Case::default() }.resolve().unwrap_err();
        assert!(none.hint.unwrap().contains("mini config set-host"));
    }

    #[test]
    fn wrong_names_are_told() {
        let project = Project { server: Some("prod".into()), app: None };
        let unknown = Case { project, ..Case::default() }.resolve().unwrap_err();
        assert!(unknown.hint.unwrap().contains("set-host URL --as prod"));
        let bad = Case { asked: flag_host("ssh://a"), ..Case::default() }.resolve();
        assert_eq!(bad.unwrap_err().kind, Kind::Usage);
    }

    #[test]
    fn the_app_is_never_guessed_from_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api");
        std::fs::create_dir(&path).unwrap();
        let name = |asked: &Asked, pairs: &[(&str, &str)], project: &Project| {
            app(asked, &vars(pairs), project, &path).unwrap().map(|a| a.to_string())
        };
        assert_eq!(name(&Asked::default(), &[], &Project::default()), None);
        let project = Project { app: Some("of-file".parse().unwrap()), server: None };
        assert_eq!(name(&Asked::default(), &[], &project).unwrap(), "of-file");
        let env = [("MINI_APP", "of-env")];
        assert_eq!(name(&Asked::default(), &env, &project).unwrap(), "of-env");
        let asked = Asked { app: Some("of-flag".parse().unwrap()), ..Asked::default() };
        assert_eq!(name(&asked, &env, &project).unwrap(), "of-flag");
    }
}
