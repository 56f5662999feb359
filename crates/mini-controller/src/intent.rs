//! What should be, read from the store in one look.

use std::sync::Arc;

use mini_core::name::AppName;
use mini_core::plan::{Desired, Intent, Rollout};
use mini_core::route::platforms_own;
use rusqlite::Connection;

use crate::core::Core;
use crate::store::{self, AppId, StoreResult};

/// The intent for an app; `None` when there is no such app.
pub(crate) async fn load(core: &Core, app: &AppName) -> StoreResult<Option<Intent>> {
    let (name, own) = (app.clone(), core.config.domains.clone());
    core.store
        .read(move |c| {
            let Some(app) = store::app_by_name(c, &name)? else { return Ok(None) };
            let live = match (&app.live_deployment, app.live_release) {
                (Some(id), Some(number)) => rollout(c, app.id, id, number)?,
                _ => None,
            };
            let rolling = store::candidate(c, app.id)?.filter(|_| app.desired == Desired::Run);
            let (unannounced, candidate) = match rolling {
                Some(d) if app.live_deployment.as_ref() == Some(&d.id) => (Some(d.id), None),
                Some(d) => match d.release {
                    Some(number) => (None, rollout(c, app.id, &d.id, number)?),
                    None => (None, None),
                },
                None => (None, None),
            };
            let last = app.live_release.map(|n| store::release(c, app.id, n)).transpose()?;
            let replace = store::replacements(c, app.id)?;
            let timing = last.flatten().map(|r| r.spec.timing).unwrap_or_default();
            let mut hosts = store::domains_of(c, app.id)?;
            // The platform's names are the platform's, also where its domains are new.
            hosts.retain(|domain| platforms_own(domain, &own).is_none());
            Ok(Some(Intent {
                app: app.name,
                desired: app.desired,
                live,
                candidate,
                unannounced,
                released: app.live_release.is_some(),
                timing,
                hosts,
                maintenance: app.maintenance,
                pages: store::pages_of(c, app.id)?,
                replace,
            }))
        })
        .await
}

pub(crate) fn rollout(
    c: &Connection,
    app: AppId,
    id: &mini_core::id::DeploymentId,
    number: u32,
) -> StoreResult<Option<Rollout>> {
    let Some(mut release) = store::release(c, app, number)? else { return Ok(None) };
    for (process, count) in store::formation(c, app)? {
        if let Some(spec) = release.spec.processes.get_mut(&process) {
            spec.count = count;
        }
    }
    let (prepared, spec) = (release.prepared, Arc::new(release.spec));
    Ok(Some(Rollout { id: id.clone(), release: number, spec, prepared }))
}
