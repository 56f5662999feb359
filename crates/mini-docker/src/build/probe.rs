//! Where the steps of builds run: seen with a step of our own, which does nothing but wait until it is
//! found among the machine's processes.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mini_core::ports::{BuildSpec, Progress};
use tokio::time::{sleep, timeout};

use super::limit::Steps;
use crate::engine::Docker;

/// From the start of the build to its step.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
const NAME: &str = "mini-probe";

impl Docker {
    /// Runs a step that waits, and ends the build as soon as it is seen; no image comes of it.
    /// `program` is linked statically and waits for so long when it is told `wait` (mini-static).
    ///
    /// # Errors
    /// Why it was not seen: the engine is away, or its processes are not this machine's.
    pub async fn find_steps(&self, program: &Path) -> Result<Steps, String> {
        let read = tokio::fs::read(program).await;
        let bytes = read.map_err(|error| format!("{}: {error}", program.display()))?;
        // Unlike any other, so that it is not taken from the cache.
        let word = self.session_id("step");
        let dockerfile =
            format!("FROM scratch\nCOPY probe /probe\nRUN [\"/probe\", \"wait\", \"{word}\"]\n");
        let mut tar = entry("Dockerfile", 0o644, dockerfile.as_bytes());
        tar.extend(entry("probe", 0o755, &bytes));
        tar.extend([0; 1024]);
        let bad = |error: &dyn std::fmt::Display| error.to_string();
        let mut build = super::run(
            self.clone(),
            BuildSpec {
                app: NAME.parse().map_err(|error| bad(&error))?,
                deployment: NAME.parse().map_err(|error| bad(&error))?,
                dockerfile: "Dockerfile".to_owned(),
                context: Box::pin(stream::iter([Ok(Bytes::from(tar))])),
                use_cache: true,
                secret: "none".to_owned(),
            },
            false,
        );
        let ended = async {
            loop {
                match build.next().await {
                    Some(Ok(Progress::Image(_))) => return "its step ended unseen".to_owned(),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return error.message,
                    None => return "the build broke off".to_owned(),
                }
            }
        };
        let seen = async {
            loop {
                if let Some(steps) = step_with(&word) {
                    return steps;
                }
                sleep(LOOK).await;
            }
        };
        let looked = timeout(PATIENCE, async {
            tokio::select! {
                steps = seen => Ok(steps),
                why = ended => Err(why),
            }
        });
        let groups = looked.await.unwrap_or_else(|_| Err("it did not begin in time".to_owned()))?;
        Steps::of(&groups).ok_or_else(|| {
            format!("it ran in none of the groups that engines use: {}", groups.trim())
        })
    }
}

/// `/proc/PID/cgroup` of the step that was told that word.
fn step_with(word: &str) -> Option<String> {
    let wanted = format!("/probe\0wait\0{word}\0");
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut groups = processes.filter_map(|process| {
        let line = std::fs::read(process.path().join("cmdline")).ok()?;
        let is_it = line == wanted.as_bytes();
        is_it.then(|| std::fs::read_to_string(process.path().join("cgroup")).ok())?
    });
    groups.next()
}

/// A file in a tar (POSIX.1-1988, "ustar"): its header and its content.
fn entry(name: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, text: &str| {
        for (to, from) in header.iter_mut().skip(at).zip(text.bytes()) {
            *to = from;
        }
    };
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", content.len()));
    put(136, "00000000000");
    // The sum is of a header whose sum is blanks.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar");
    put(263, "00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    for (to, from) in header.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()) {
        *to = from;
    }
    let mut entry = header.to_vec();
    entry.extend_from_slice(content);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_read_again() {
        let mut bytes = entry("Dockerfile", 0o644, b"FROM scratch\n");
        bytes.extend(entry("probe", 0o755, &[7; 1025]));
        bytes.extend([0; 1024]);
        let mut archive = tar::Archive::new(&bytes[..]);
        let found: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
                let name = entry.path().unwrap().display().to_string();
                (name, entry.header().mode().unwrap(), content)
            })
            .collect();
        let wanted = [
            ("Dockerfile".to_owned(), 0o644, b"FROM scratch\n".to_vec()),
            ("probe".to_owned(), 0o755, vec![7; 1025]),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_step_is_known_by_what_it_was_told() {
        assert_eq!(step_with("that nobody was told"), None);
    }
}
