//! What a pipeline needs of a deploy that a person does not: `mini deploy --ci`.

use std::fs::OpenOptions;
use std::io::Write;

use mini_api::{App, Deployment, DeploymentStatus};
use mini_core::source::SourceDigest;

use crate::failure::Failure;
use crate::settings::Vars;

/// Of the key that says which deployment a commit's is.
const KEY: usize = 200;

/// The pipeline that `mini` runs in, as its variables tell: GitHub Actions, GitLab, and those that
/// set the same names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pipeline {
    commit: Option<String>,
    /// A branch or a tag.
    reference: Option<String>,
    /// Another for each try of one run.
    attempt: Option<String>,
    /// Where Actions reads a step's outputs from (`name=value` lines).
    outputs: Option<String>,
    /// Where Actions reads a step's summary from (Markdown).
    summary: Option<String>,
}

impl Pipeline {
    pub(crate) fn of(vars: &Vars) -> Self {
        let first = |names: &[&str]| {
            let found = names.iter().find_map(|name| vars.get(name));
            found.filter(|v| v.bytes().all(|b| b.is_ascii_graphic())).map(str::to_owned)
        };
        let attempt = match (vars.get("GITHUB_RUN_ID"), vars.get("GITHUB_RUN_ATTEMPT")) {
            (Some(run), Some(attempt)) => Some(format!("{run}.{attempt}")),
            _ => first(&["CI_JOB_ID"]),
        };
        Self {
            commit: first(&["GITHUB_SHA", "CI_COMMIT_SHA"]),
            reference: first(&["GITHUB_REF_NAME", "CI_COMMIT_REF_NAME"]),
            attempt,
            outputs: vars.get("GITHUB_OUTPUT").map(str::to_owned),
            summary: vars.get("GITHUB_STEP_SUMMARY").map(str::to_owned),
        }
    }

    /// The same for the same commit with the same content: a job that is run again finds what it
    /// did. `None` without a commit.
    pub(crate) fn key(&self, what: Option<&SourceDigest>, image: Option<&str>) -> Option<String> {
        let commit = self.commit.as_deref()?;
        let what = what.map(SourceDigest::to_string).or(image.map(str::to_owned))?;
        Some(fit(format!("{commit}.{what}")))
    }

    /// The key for doing it once more, since what the commit did is not what serves. `None` where
    /// nothing tells one try from another.
    pub(crate) fn key_again(&self, key: &str) -> Option<String> {
        let attempt = self.attempt.as_deref()?;
        Some(fit(format!("{attempt}.{key}")))
    }

    /// For `mini releases`.
    pub(crate) fn description(&self) -> Option<String> {
        let commit = self.commit.as_deref()?;
        let short = commit.get(..12).unwrap_or(commit);
        Some(match &self.reference {
            Some(reference) => format!("commit {short} ({reference})"),
            None => format!("commit {short}"),
        })
    }

    /// Tells the steps that come after where the app is.
    pub(crate) fn report(&self, deployment: &Deployment) -> Result<(), Failure> {
        let release = deployment.release.as_deref().unwrap_or_default();
        let Deployment { id, app, url, .. } = deployment;
        if let Some(path) = &self.outputs {
            let lines = format!("url={url}\napp={app}\nrelease={release}\ndeployment={id}\n");
            append(path, &lines)?;
        }
        if let Some(path) = &self.summary {
            append(path, &format!("**{app}** {release} is live at <{url}>\n"))?;
        }
        Ok(())
    }
}

/// Whether a deployment that is over is not what the app runs.
pub(crate) fn is_past(deployment: &Deployment, app: &App) -> bool {
    match deployment.status {
        DeploymentStatus::Live => app.release != deployment.release,
        _ => true,
    }
}

fn fit(mut key: String) -> String {
    key.retain(|c| c.is_ascii_graphic());
    key.truncate(KEY);
    key
}

fn append(path: &str, text: &str) -> Result<(), Failure> {
    let told = |e| Failure::io(format!("cannot write {path}"), &e);
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(told)?;
    file.write_all(text.as_bytes()).map_err(told)
}

/// Workflow commands of GitHub Actions, written between the lines of a job's log.
///
/// The runner obeys any line of a log that begins with `::`, indented or not, so also what a
/// Dockerfile prints. All but our own is written with commands switched off, by a word that nobody
/// can guess. (GitHub's documentation, "Workflow commands for GitHub Actions: Stopping and starting
/// workflow commands".)
#[derive(Debug)]
pub(crate) struct Actions {
    word: String,
}

impl Actions {
    /// None outside GitHub Actions.
    pub(crate) fn of(vars: &Vars) -> Result<Option<Self>, Failure> {
        if vars.get("GITHUB_ACTIONS") != Some("true") {
            return Ok(None);
        }
        Ok(Some(Self { word: crate::context::new_key()? }))
    }

    /// The line that switches commands off; before anything else is written.
    pub(crate) fn off(&self) -> String {
        format!("::stop-commands::{}\n", self.word)
    }

    /// The lines of one command of ours.
    pub(crate) fn command(&self, command: &str, text: &str) -> String {
        let text = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        format!("::{}::\n::{command}::{text}\n{}", self.word, self.off())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(pairs: &[(&str, &str)]) -> Pipeline {
        Pipeline::of(&Vars::of_pairs(pairs))
    }

    #[test]
    fn a_commit_with_the_same_content_has_the_same_key() {
        let run = [("GITHUB_SHA", "0123456789abcdef"), ("GITHUB_RUN_ID", "77")];
        let first = pipeline(&[&run[..], &[("GITHUB_RUN_ATTEMPT", "1")]].concat());
        let second = pipeline(&[&run[..], &[("GITHUB_RUN_ATTEMPT", "2")]].concat());
        let key = first.key(None, Some("nginx:1")).unwrap();
        assert_eq!(key, "0123456789abcdef.nginx:1");
        assert_eq!(second.key(None, Some("nginx:1")).unwrap(), key);
        assert_ne!(first.key(None, Some("nginx:2")).unwrap(), key);
        assert_eq!(first.key_again(&key).unwrap(), "77.1.0123456789abcdef.nginx:1");
        assert_ne!(second.key_again(&key), first.key_again(&key));
        assert!(first.key(None, Some(&"x".repeat(300))).unwrap().len() <= KEY);
    }

    #[test]
    fn without_a_commit_there_is_no_key() {
        assert_eq!(pipeline(&[]).key(None, Some("nginx:1")), None);
        assert_eq!(pipeline(&[]).description(), None);
        let gitlab = pipeline(&[("CI_COMMIT_SHA", "0123456789abcdef"), ("CI_JOB_ID", "5")]);
        assert_eq!(gitlab.description().unwrap(), "commit 0123456789ab");
        assert_eq!(gitlab.key_again("k").unwrap(), "5.k");
    }

    #[test]
    fn a_command_stands_alone_between_fences() {
        let actions = Actions { word: "w0rd".into() };
        assert_eq!(
            actions.command("error title=x", "50% of\nit"),
            "::w0rd::\n::error title=x::50%25 of%0Ait\n::stop-commands::w0rd\n"
        );
    }
}
