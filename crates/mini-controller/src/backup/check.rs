//! Whether an unpacked backup would bring the platform back.

use std::path::Path;

use super::{BackupError, DATABASE, KEY, Manifest};
use crate::store;
use crate::vault::Vault;

/// Looks at the database, brings it to this program's schema, opens everything that is sealed, and
/// asks whether each release that would run has something to be made from.
pub(super) fn folder(folder: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    for name in [DATABASE, KEY] {
        if !folder.join(name).is_file() {
            return Err(BackupError::Incomplete(format!("there is no {name} in it")));
        }
    }
    let c = &store::open_to_restore(&folder.join(DATABASE))?;
    if let Some(wrong) = store::integrity(c)? {
        return Err(BackupError::Damaged(format!("the database: {wrong}")));
    }
    if store::meta(c, "server_id")?.as_deref() != Some(&manifest.origin.server) {
        return Err(BackupError::Incomplete("the database is another server's".into()));
    }
    let vault = Vault::open(&folder.join(KEY))?;
    for (purpose, sealed) in store::all_sealed(c)? {
        vault.open_sealed(&purpose, &sealed)?;
    }
    for needed in store::needed_releases(c)? {
        let (app, number) = (&needed.app, needed.release.number);
        let source = needed.release.source.as_ref();
        let kept = source.is_some_and(|s| folder.join(format!("sources/{s}.tar")).is_file());
        if !kept && needed.release.image_name.is_none() && !manifest.images {
            let why = format!("of {app} v{number} it has neither source nor image");
            return Err(BackupError::Incomplete(why));
        }
    }
    Ok(())
}
