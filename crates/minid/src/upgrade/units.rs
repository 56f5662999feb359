//! The units that a release runs under, on the machine. What it writes is a function of its program, so that
//! going back brings back what was there; what an operator changes is in drop-ins, which are left alone.

use std::fs;
use std::path::Path;

use super::trial::{self, Units};
use super::{Upgrade, io};
use crate::commands::units;
use crate::output::{self, Fault};
use crate::services::CONTROLLER;

/// Where systemd reads this machine's own (systemd.unit(5)).
const FOLDER: &str = "/etc/systemd/system";

impl Upgrade<'_> {
    /// Those of a release, by name; none if it is too old to say.
    pub(super) async fn units_of(&self, id: &str) -> Result<Option<Units>, String> {
        let scratch = self.scratch().map_err(|fault| fault.words())?;
        trial::units(&self.layout.folder(id), &scratch).await
    }

    /// Makes the machine's units those of a release; the names of those that differed. From its next
    /// start on each is as it says.
    pub(super) async fn put_units(
        &self,
        units: &Units,
        gone: &[String],
    ) -> Result<Vec<String>, Fault> {
        let all = units.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let written = units::write(Path::new(FOLDER), all).map_err(io("the units"))?;
        if !written.is_empty() {
            self.services.reread_units().await?;
            self.services.enable(&written).await?;
        }
        let there = |name: &&str| Path::new(FOLDER).join(name).exists();
        let gone: Vec<&str> = gone.iter().map(String::as_str).filter(there).collect();
        if !gone.is_empty() {
            self.services.disable(&gone).await?;
            let removed =
                gone.iter().try_for_each(|name| fs::remove_file(Path::new(FOLDER).join(name)));
            removed.map_err(io("a unit that is not needed any more"))?;
            self.services.reread_units().await?;
        }
        Ok(written.into_iter().map(str::to_owned).collect())
    }

    /// The controller is restarted, and nobody notices. To restart the proxy would cut what takes
    /// longer than the drain time, and let all else wait for it: it hands its sockets over instead,
    /// and the new one lives under what the old one was started with.
    pub(super) async fn say_what_waits(&self, written: &[String]) {
        let mut waiting = Vec::new();
        for name in written.iter().filter(|name| *name != CONTROLLER) {
            if self.services.is_active(name).await {
                waiting.push(name.as_str());
            }
        }
        if !waiting.is_empty() {
            let waiting = waiting.join(" ");
            output::line(&format!(
                "note: what has changed in {waiting} holds from the next boot on, or from `systemctl \
                 restart {waiting}`"
            ));
        }
    }
}

/// The names of the units that are in `these` and not in `those`; where either is not known, none.
pub(super) fn only_in(these: Option<&Units>, those: Option<&Units>) -> Vec<String> {
    let (Some(these), Some(those)) = (these, those) else { return Vec::new() };
    these.keys().filter(|name| !those.contains_key(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_release_has_and_the_other_has_not_is_known_only_of_two_that_say() {
        let units = |names: &[&str]| -> Units {
            names.iter().map(|name| ((*name).to_owned(), String::new())).collect()
        };
        let (old, new) = (units(&["a", "b"]), units(&["b", "c"]));
        assert_eq!(only_in(Some(&new), Some(&old)), ["c"]);
        assert_eq!(only_in(Some(&old), Some(&new)), ["a"]);
        assert!(only_in(Some(&new), None).is_empty());
        assert!(only_in(None, Some(&old)).is_empty());
    }
}
