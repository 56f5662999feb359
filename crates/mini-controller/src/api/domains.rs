//! Custom domains. A domain is no part of a release: its app's route changes at once.

use axum::Json;
use axum::extract::{Path, State};
use futures_util::StreamExt as _;
use mini_api::{Domain, DomainAdded, Domains, ErrorCode, NewDomain, RouteChanged};
use mini_core::fault;
use mini_core::name::{AppName, BadName, HostPattern};
use mini_core::route::platforms_own;
use serde::Deserialize;

use super::Api;
use super::auth::Caller;
use super::body::{Json as Body, OfApp, Params};
use super::error::{ApiError, ApiResult};
use super::settings;
use crate::clock::{self, timestamp};
use crate::store::{self, AppRow, Claimed, DomainRow};

/// Names looked up at once for one list.
const LOOKUPS: usize = 8;

#[derive(Deserialize)]
pub(super) struct Look {
    /// Whether to ask what the names lead to.
    #[serde(default)]
    dns: bool,
}

/// The app's domains.
#[utoipa::path(get, path = "/v1/apps/{app}/domains", params(("app" = String, Path), ("dns" = Option<bool>, Query)), responses((status = 200, body = Domains)))]
pub(super) async fn list(
    State(api): State<Api>,
    OfApp(app): OfApp,
    Params(look): Params<Look>,
) -> ApiResult<Json<Domains>> {
    let rows = api.core.store.read(move |c| store::domain_rows(c, app.id)).await?;
    let mut domains: Vec<Domain> = rows.into_iter().map(document).collect();
    if look.dns && !domains.is_empty() {
        let (resolver, server) = (&api.core.resolver, server(&api).await);
        let look = |domain: Domain| {
            let server = &server;
            async move {
                let dns = Some(resolver.look(&domain.name, server).await);
                Domain { dns, ..domain }
            }
        };
        domains = futures_util::stream::iter(domains).map(look).buffered(LOOKUPS).collect().await;
    }
    Ok(Json(Domains { domains }))
}

async fn server(api: &Api) -> crate::dns::ThisServer {
    api.core.resolver.server(&api.core.config.domains).await
}

fn document(row: DomainRow) -> Domain {
    Domain { name: row.domain, created_at: timestamp(row.created_at), dns: None }
}

/// Gives the app a domain: answers when requests for it are routed, or the proxy is away.
#[utoipa::path(post, path = "/v1/apps/{app}/domains", params(("app" = String, Path)), request_body = NewDomain, responses((status = 200, body = DomainAdded)))]
pub(super) async fn add(
    State(api): State<Api>,
    OfApp(app): OfApp,
    caller: Caller,
    Body(new): Body<NewDomain>,
) -> ApiResult<Json<DomainAdded>> {
    settings::is_kept(&app)?;
    let domain = checked(&api, &new.name)?;
    let (id, own, now) = (app.id, domain.clone(), clock::now());
    let claimed = api.core.store.write(move |tx| {
        let claimed = store::claim_domain(tx, id, &own, now)?;
        let row = store::domain_rows(tx, id)?.into_iter().find(|row| row.domain == own);
        Ok((claimed, row, over(tx, id, &own)?))
    });
    let (claimed, row, wildcard) = claimed.await?;
    fault::point("route.stored");
    match claimed {
        Claimed::New => api.core.logs.say(&app.name, "api", format!("Domain {domain} added")),
        Claimed::Already => {}
        Claimed::ByOther(owner) => return Err(taken(&caller, &domain, &owner)),
        Claimed::TooMany => {
            let most = store::MAX_DOMAINS;
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("{} has {most} domains, which is as many as an app may have", app.name),
            )
            .hint("a wildcard such as *.example.com is one domain for many names"));
        }
    }
    // It may need a certificate.
    api.core.certs.wake();
    let row = row.unwrap_or(DomainRow { domain: domain.clone(), created_at: now });
    let has = |route: &mini_core::route::AppRoute| route.hosts.contains(&domain);
    let (routed, dns) = tokio::join!(settings::routed(&api, &app, has), async {
        api.core.resolver.look(&domain, &server(&api).await).await
    });
    Ok(Json(DomainAdded {
        domain: Domain { dns: Some(dns), ..document(row) },
        changed: claimed == Claimed::New,
        routed,
        taken_from: wildcard.filter(|other| caller.may_see(other)),
    }))
}

/// Another app whose wildcard the domain is of.
fn over(
    c: &rusqlite::Connection,
    id: store::AppId,
    domain: &HostPattern,
) -> store::StoreResult<Option<AppName>> {
    let rest = mini_core::name::wildcard_key(domain.as_str());
    let wildcard = rest.and_then(|rest| format!("*{rest}").parse::<HostPattern>().ok());
    let Some(wildcard) = wildcard.filter(|_| !domain.is_wildcard()) else { return Ok(None) };
    let owner = store::domain_owner(c, &wildcard)?;
    Ok(owner.filter(|(owner, _)| *owner != id).map(|(_, name)| name))
}

fn checked(api: &Api, name: &str) -> ApiResult<HostPattern> {
    let domain = parsed(name)?;
    match platforms_own(&domain, &api.core.config.domains) {
        None => Ok(domain),
        Some(why) => Err(ApiError::new(ErrorCode::InvalidName, format!("{domain} {why}"))
            .hint("every app has APP.DOMAIN by itself; a custom domain is a name of your own")),
    }
}

fn parsed(name: &str) -> ApiResult<HostPattern> {
    name.trim().parse().map_err(|error: BadName| {
        let error = ApiError::new(ErrorCode::InvalidName, error.to_string());
        match name {
            _ if name.contains("://") || name.contains('/') || name.contains(':') => {
                error.hint("leave out http://, the port and the path")
            }
            _ => error.hint("a name such as www.example.com or *.example.com"),
        }
    })
}

/// Names the owner only to those who may see it.
fn taken(caller: &Caller, domain: &HostPattern, owner: &AppName) -> ApiError {
    if caller.may_see(owner) {
        ApiError::new(ErrorCode::NameTaken, format!("{domain} belongs to the app {owner}"))
            .hint(format!("`mini domains remove {domain} --app {owner}` lets it go"))
    } else {
        ApiError::new(ErrorCode::NameTaken, format!("{domain} belongs to another app"))
            .hint("ask the server's operator")
    }
}

/// Takes a domain from the app: answers when requests for it are not routed any more.
#[utoipa::path(delete, path = "/v1/apps/{app}/domains/{domain}", params(("app" = String, Path), ("domain" = String, Path)), responses((status = 200, body = RouteChanged)))]
pub(super) async fn remove(
    State(api): State<Api>,
    OfApp(app): OfApp,
    Path((_, name)): Path<(String, String)>,
) -> ApiResult<Json<RouteChanged>> {
    let domain = parsed(&name)?;
    let (id, own) = (app.id, domain.clone());
    let gone = api.core.store.write(move |tx| store::let_domain_go(tx, id, &own)).await?;
    fault::point("route.stored");
    if !gone {
        return Err(missing(&app, &domain));
    }
    api.core.certs.wake();
    api.core.logs.say(&app.name, "api", format!("Domain {domain} removed"));
    let routed = settings::routed(&api, &app, |route| !route.hosts.contains(&domain)).await;
    Ok(Json(RouteChanged { changed: true, routed }))
}

fn missing(app: &AppRow, domain: &HostPattern) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("{} has no domain {domain}", app.name))
        .hint(format!("`mini domains --app {}` lists those it has", app.name))
}
