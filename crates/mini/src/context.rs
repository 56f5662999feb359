//! What every command works with: output, settings, and the client they lead to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mini_api::client::{Client, ClientError, Timing};
use mini_core::name::AppName;

use crate::config_file::{self, ConfigFile};
use crate::failure::Failure;
use crate::output::Output;
use crate::project::Project;
use crate::settings::{self, Asked, Target, Vars};

pub(crate) struct Context {
    pub(crate) out: Arc<Output>,
    pub(crate) vars: Vars,
    pub(crate) asked: Asked,
}

impl Context {
    /// The user's own file; its warning is told.
    pub(crate) fn config(&self) -> Result<ConfigFile, Failure> {
        self.config_at(config_file::path(&self.vars)?)
    }

    fn config_at(&self, path: PathBuf) -> Result<ConfigFile, Failure> {
        let (file, warning) = ConfigFile::read(path)?;
        if let Some(warning) = warning {
            self.out.warn(&warning);
        }
        Ok(file)
    }

    pub(crate) fn target(&self, project: &Project) -> Result<Target, Failure> {
        // Whoever names the server by the environment, as pipelines do, needs no file and no home.
        let file = match config_file::path(&self.vars) {
            Ok(path) => self.config_at(path)?,
            Err(_) => ConfigFile::empty(),
        };
        let socket = settings::admin_socket(&self.vars);
        let target = settings::target(&self.asked, &self.vars, &file, project, socket)?;
        if let Some(note) = &target.note {
            self.out.warn(note);
        }
        Ok(target)
    }

    /// A client for the folder that `mini` was started in.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        self.client_in(&Project::read(&here())?)
    }

    pub(crate) fn client_in(&self, project: &Project) -> Result<Client, Failure> {
        let target = self.target(project)?;
        Ok(self.client_of(target))
    }

    pub(crate) fn client_of(&self, target: Target) -> Client {
        let out = self.out.clone();
        let timing = Timing::default();
        let patience = timing.patience.as_secs();
        let on_wait = move |e: &ClientError| {
            // A server's own words end with a full stop.
            let why = e.to_string();
            let why = why.trim_end_matches('.');
            out.say(&format!("{why}; trying again for up to {patience} s"));
        };
        let Target { endpoint, token, fingerprint, .. } = target;
        Client::with(endpoint, token, fingerprint, timing, Some(Box::new(on_wait)))
    }

    /// The app and its client, for commands that need one in the folder that `mini` runs in.
    pub(crate) fn app(&self) -> Result<(AppName, Client), Failure> {
        let project = Project::read(&here())?;
        let app = self.app_name(&project, &here())?.ok_or_else(|| {
            Failure::usage("no app is named").hint(
                "pass --app NAME, or run this where mini.toml names it; `mini apps` lists all",
            )
        })?;
        Ok((app, self.client_in(&project)?))
    }

    /// The same for `NAME` as an argument.
    pub(crate) fn app_or(&self, name: Option<AppName>) -> Result<(AppName, Client), Failure> {
        match name {
            Some(name) => Ok((name, self.client()?)),
            None => self.app(),
        }
    }

    pub(crate) fn app_name(
        &self,
        project: &Project,
        folder: &Path,
    ) -> Result<Option<AppName>, Failure> {
        settings::app(&self.asked, &self.vars, project, folder)
    }
}

fn here() -> PathBuf {
    PathBuf::from(".")
}

/// A new idempotency key: 128 random bits in hex.
pub(crate) fn new_key() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| Failure::failed(format!("the system gives no random numbers: {e}")))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
