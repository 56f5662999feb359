//! Config vars: opened, sealed and checked.

use std::collections::BTreeMap;

use crate::store::{self, AppId, StoreError, StoreResult};
use crate::vault::{Vault, VaultError};

/// What a sealed config var is for.
pub(crate) fn purpose(app: AppId, name: &str) -> String {
    format!("env/{app}/{name}")
}

/// What a release's sealed environment is for.
pub(crate) fn release_purpose(app: AppId, release: u32) -> String {
    format!("release-env/{app}/v{release}")
}

/// The app's config vars in the clear.
pub(crate) fn open(
    vault: &Vault,
    app: AppId,
    sealed: Vec<(String, Vec<u8>)>,
) -> Result<BTreeMap<String, String>, VaultError> {
    let open_one = |(name, value): (String, Vec<u8>)| {
        let purpose = purpose(app, &name);
        let bytes = vault.open_sealed(&purpose, &value)?;
        let text = String::from_utf8(bytes).map_err(|_| VaultError::Sealed(purpose))?;
        Ok((name, text))
    };
    sealed.into_iter().map(open_one).collect()
}

/// The app's whole environment, sealed for a release.
pub(crate) fn seal_for_release(
    vault: &Vault,
    app: AppId,
    release: u32,
    vars: &BTreeMap<String, String>,
) -> StoreResult<Vec<u8>> {
    let corrupt = |why: String| StoreError::Corrupt { what: "env".into(), why };
    let json = serde_json::to_vec(vars).map_err(|e| corrupt(e.to_string()))?;
    vault.seal(&release_purpose(app, release), &json).map_err(|e| corrupt(e.to_string()))
}

/// The environment that a release was made with.
pub(crate) fn of_release(
    vault: &Vault,
    app: AppId,
    release: &store::ReleaseRow,
) -> Result<BTreeMap<String, String>, VaultError> {
    let purpose = release_purpose(app, release.number);
    let bytes = vault.open_sealed(&purpose, &release.env)?;
    serde_json::from_slice(&bytes).map_err(|_| VaultError::Sealed(purpose))
}
