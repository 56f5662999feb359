//! One certificate authority: our account there, orders, and what it suggests about renewal
//! (RFC 8555, RFC 8737, RFC 9773).

use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use mini_core::control::{Challenge, SecretPem};
use mini_core::time::Millis;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};

use super::chain;
use super::https::{Https, heeding};
use super::schedule::Way;
use crate::clock;
use crate::core::Core;
use crate::store;

/// How long the proxy may take until it answers the authority's questions.
const CHALLENGED: Duration = Duration::from_secs(10);
/// How long a validation or the making of a certificate may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Tries of one way where the authority stumbles: a used nonce, a broken connection.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);

/// A new certificate with its key.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
    pub(super) way: Option<Way>,
}

/// Why there is no certificate.
#[derive(Debug)]
pub(super) struct Failure {
    /// For the user: what the authority said, of each way that was tried.
    pub(super) text: String,
    pub(super) kind: Kind,
    /// How long the authority asked to be left alone.
    pub(super) retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The name could not be proven.
    Refused,
    /// A limit of the authority's.
    Limited,
    /// The authority, or the way to it, is at fault.
    Trouble,
    /// The proxy went away meanwhile; it counts for nothing.
    ProxyAway,
    /// The authority does not know our account any more.
    NoAccount,
}

impl Failure {
    pub(super) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { text: text.into(), kind, retry_after: None }
    }

    fn of(error: &Error) -> Self {
        let (kind, text) = match error {
            Error::Api(problem) => (kind_of(problem), in_words(problem)),
            Error::Timeout(_) => (Kind::Trouble, "the authority takes too long".to_owned()),
            // An error page of something in between.
            Error::Json(_) => (Kind::Trouble, "the authority's answer is not ACME's".to_owned()),
            other => (Kind::Trouble, chain_of(other)),
        };
        Self::new(kind, text)
    }
}

fn kind_of(problem: &Problem) -> Kind {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    match kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind) {
        "rateLimited" => Kind::Limited,
        "accountDoesNotExist" => Kind::NoAccount,
        "badNonce" | "serverInternal" => Kind::Trouble,
        _ if problem.status.is_some_and(|s| s >= 500) => Kind::Trouble,
        _ => Kind::Refused,
    }
}

/// What a problem document says (RFC 9457; its type in short).
fn in_words(problem: &Problem) -> String {
    let mut text = problem.detail.clone().unwrap_or_else(|| "no reason was given".to_owned());
    for sub in &problem.subproblems {
        text.push_str(&sub.detail.as_deref().map(|d| format!("; {d}")).unwrap_or_default());
    }
    if let Some(kind) = problem.r#type.as_deref().and_then(|t| t.rsplit(':').next()) {
        text.push_str(&format!(" ({kind})"));
    }
    text
}

fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(&format!(": {cause_text}"));
        }
        next = cause.source();
    }
    text
}

/// The account at a directory: kept once it was used.
#[derive(Default)]
pub(super) struct Authority {
    account: tokio::sync::Mutex<Option<Account>>,
}

impl Authority {
    /// Our account there: the one of before, else a new one.
    async fn account(&self, core: &Core) -> Result<Account, Failure> {
        let mut kept = self.account.lock().await;
        if let Some(account) = &*kept {
            return Ok(account.clone());
        }
        let acme = &core.config.acme;
        let http = Https::new(acme.ca_bundle.as_deref())
            .map_err(|why| Failure::new(Kind::Trouble, why))?;
        let builder = || Account::builder_with_http(Box::new(http.clone()));
        let ours = |e: &dyn std::fmt::Display| Failure::new(Kind::Trouble, e.to_string());
        let (directory, purpose) = (acme.directory.clone(), purpose(&acme.directory));
        let sealed = core.store.read(move |c| store::acme_account(c, &directory)).await;
        let account = match sealed.map_err(|e| ours(&e))? {
            Some(sealed) => {
                let opened = core.vault.open_sealed(&purpose, &sealed).map_err(|e| ours(&e))?;
                let credentials: AccountCredentials =
                    serde_json::from_slice(&opened).map_err(|e| ours(&e))?;
                builder().from_credentials(credentials).await.map_err(|e| Failure::of(&e))?
            }
            None => {
                let contact = acme.email.as_ref().map(|email| format!("mailto:{email}"));
                let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
                let new = NewAccount {
                    contact: &contact,
                    terms_of_service_agreed: true,
                    only_return_existing: false,
                };
                let made = builder().create(&new, acme.directory.clone(), None).await;
                let (account, credentials) = made.map_err(|e| Failure::of(&e))?;
                let json = serde_json::to_vec(&credentials).map_err(|e| ours(&e))?;
                let sealed = core.vault.seal(&purpose, &json).map_err(|e| ours(&e))?;
                let (directory, email) = (acme.directory.clone(), acme.email.clone());
                let put = core.store.write(move |tx| {
                    let now = clock::now();
                    store::put_acme_account(tx, &directory, email.as_deref(), &sealed, now)
                });
                put.await.map_err(|e| ours(&e))?;
                tracing::info!(acme.directory, "registered with the certificate authority");
                account
            }
        };
        *kept = Some(account.clone());
        Ok(account)
    }

    /// Forgets the account, which the authority does not know any more.
    async fn forget(&self, core: &Core) {
        *self.account.lock().await = None;
        let directory = core.config.acme.directory.clone();
        let removed = core.store.write(move |tx| store::remove_acme_account(tx, &directory)).await;
        if let Err(error) = removed {
            tracing::warn!(%error, "the account at the certificate authority is not forgotten");
        }
    }

    /// Orders a certificate for `name`, proven by the first of `ways` that the authority accepts.
    /// `before` is the chain that it takes the place of.
    pub(super) async fn order(
        &self,
        core: &Core,
        name: &str,
        ways: &[Way],
        before: Option<&str>,
    ) -> Result<Issued, Failure> {
        let (done, retry_after) = heeding(self.try_ways(core, name, ways, before)).await;
        done.map_err(|failure| Failure { retry_after, ..failure })
    }

    async fn try_ways(
        &self,
        core: &Core,
        name: &str,
        ways: &[Way],
        before: Option<&str>,
    ) -> Result<Issued, Failure> {
        // Whatever is wrong with the account is so for every way.
        self.account(core).await.map_err(|failure| Failure {
            text: format!("the account at the authority: {}", failure.text),
            ..failure
        })?;
        let mut told = Vec::new();
        for way in ways {
            match self.try_way(core, name, *way, before).await {
                Ok(issued) => return Ok(issued),
                Err(failure) if failure.kind == Kind::Refused => {
                    told.push(format!("{}: {}", way.name(), failure.text));
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::new(Kind::Refused, told.join("; ")))
    }

    async fn try_way(
        &self,
        core: &Core,
        name: &str,
        way: Way,
        before: Option<&str>,
    ) -> Result<Issued, Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            let account = self.account(core).await?;
            let mut prepared = Prepared { core, name };
            let done = prepared.order(&account, way, before).await;
            match done {
                Err(failure) if failure.kind == Kind::NoAccount && tries < TRIES => {
                    self.forget(core).await;
                }
                Err(failure) if failure.kind == Kind::Trouble && tries < TRIES => {
                    tracing::debug!(name, why = failure.text, "an order is begun again");
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    /// What the authority suggests for a certificate: a window to renew it in, and when to ask
    /// again. `None`: it suggests nothing.
    pub(super) async fn renewal_window(
        &self,
        core: &Core,
        chain: &str,
    ) -> Result<Option<((Millis, Millis), Duration)>, Failure> {
        let account = self.account(core).await?;
        let Some(id) = identifier(chain) else { return Ok(None) };
        match account.renewal_info(&id).await {
            Ok((info, again)) => {
                let window = info.suggested_window;
                Ok(Some((
                    (millis(window.start.unix_timestamp()), millis(window.end.unix_timestamp())),
                    again,
                )))
            }
            Err(Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(Failure::of(&error)),
        }
    }
}

fn millis(seconds: i64) -> Millis {
    Millis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

/// What a sealed account is for.
pub(crate) fn purpose(directory: &str) -> String {
    format!("acme-account/{directory}")
}

/// The certificate's name for its authority (RFC 9773 section 4.1).
fn identifier(chain: &str) -> Option<CertificateIdentifier<'static>> {
    let leaf = chain::first(chain).ok()?;
    CertificateIdentifier::try_from(&leaf).ok().map(CertificateIdentifier::into_owned)
}

/// One order for one name.
struct Prepared<'a> {
    core: &'a Core,
    name: &'a str,
}

impl Prepared<'_> {
    async fn order(
        &mut self,
        account: &Account,
        way: Way,
        before: Option<&str>,
    ) -> Result<Issued, Failure> {
        let identifiers = [Identifier::Dns(self.name.to_owned())];
        let mut order = self.begin(account, &identifiers, before).await?;
        let proven = self.prove(&mut order, way).await;
        self.core.certs.answer(self.core, self.name, None);
        let way = proven?;
        let key = KeyPair::generate().map_err(|e| Failure::new(Kind::Trouble, e.to_string()))?;
        let csr = request_for(self.name, &key)?;
        order.finalize_csr(&csr).await.map_err(|e| Failure::of(&e))?;
        let chain = order.poll_certificate(&patience()).await.map_err(|e| Failure::of(&e))?;
        Ok(Issued { chain, key: key.serialize_pem(), way })
    }

    /// Places the order. It says which certificate it takes the place of, where the authority wants
    /// to know; one that refuses that (it was replaced before, or another account's) gets it anew.
    async fn begin(
        &self,
        account: &Account,
        identifiers: &[Identifier],
        before: Option<&str>,
    ) -> Result<Order, Failure> {
        if let Some(id) = before.and_then(identifier) {
            match account.new_order(&NewOrder::new(identifiers).replaces(id)).await {
                Ok(order) => return Ok(order),
                Err(error @ Error::Api(_)) => {
                    let failure = Failure::of(&error);
                    if failure.kind != Kind::Refused {
                        return Err(failure);
                    }
                }
                // It knows no renewal information, or does not repeat what was said.
                Err(Error::Unsupported(_) | Error::Other(_)) => {}
                Err(error) => return Err(Failure::of(&error)),
            }
        }
        account.new_order(&NewOrder::new(identifiers)).await.map_err(|e| Failure::of(&e))
    }

    /// Answers the authority's questions. `None`: it had none, since the name was proven before.
    async fn prove(&self, order: &mut Order, way: Way) -> Result<Option<Way>, Failure> {
        let mut asked = None;
        {
            let mut authorizations = order.authorizations();
            while let Some(next) = authorizations.next().await {
                let mut authorization = next.map_err(|e| Failure::of(&e))?;
                match authorization.status {
                    AuthorizationStatus::Valid => continue,
                    AuthorizationStatus::Pending => {}
                    other => {
                        let text = format!("the authorization is {other:?}").to_lowercase();
                        return Err(Failure::new(Kind::Refused, text));
                    }
                }
                let wanted = match way {
                    Way::Http => ChallengeType::Http01,
                    Way::Tls => ChallengeType::TlsAlpn01,
                };
                let Some(mut challenge) = authorization.challenge(wanted) else {
                    let text = "the authority does not offer it";
                    return Err(Failure::new(Kind::Refused, text));
                };
                let proof = challenge.key_authorization();
                let answer = match way {
                    Way::Http => Challenge::Http {
                        name: self.name.to_owned(),
                        token: challenge.token.clone(),
                        answer: proof.as_str().to_owned(),
                    },
                    Way::Tls => self.handshake(proof.digest().as_ref())?,
                };
                let sequence = self.core.certs.answer(self.core, self.name, Some(answer));
                if !self.core.link.challenged(sequence, CHALLENGED).await {
                    let text = "the proxy did not take the challenge";
                    return Err(Failure::new(Kind::ProxyAway, text));
                }
                challenge.set_ready().await.map_err(|e| Failure::of(&e))?;
                asked = Some(way);
            }
        }
        match order.poll_ready(&patience()).await {
            Ok(OrderStatus::Invalid) => Err(self.refusal(order, None).await),
            Ok(_) => Ok(asked),
            Err(Error::Api(problem)) if kind_of(&problem) == Kind::Refused => {
                Err(self.refusal(order, Some(&problem)).await)
            }
            Err(error) => Err(Failure::of(&error)),
        }
    }

    /// Why an order became invalid: the authority says it at the challenge.
    async fn refusal(&self, order: &mut Order, known: Option<&Problem>) -> Failure {
        let mut said = known.map(in_words);
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            let Ok(state) = authorization.refresh().await else { continue };
            if let Some(problem) = state.challenges.iter().find_map(|c| c.error.as_ref()) {
                let failure = Failure::new(kind_of(problem), in_words(problem));
                if failure.kind != Kind::Refused {
                    return failure;
                }
                said = Some(failure.text);
            }
        }
        let text = said.unwrap_or_else(|| "the authority refused without a reason".to_owned());
        Failure::new(Kind::Refused, text)
    }

    /// The certificate that a handshake for `acme-tls/1` meets (RFC 8737 section 3).
    fn handshake(&self, digest: &[u8]) -> Result<Challenge, Failure> {
        let failed = |e: rcgen::Error| Failure::new(Kind::Trouble, e.to_string());
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(vec![self.name.to_owned()]).map_err(failed)?;
        if digest.len() != 32 {
            return Err(Failure::new(Kind::Trouble, "the proof's digest is not 32 bytes"));
        }
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let certificate = params.self_signed(&key).map_err(failed)?;
        let (chain, key) = (certificate.pem(), SecretPem(key.serialize_pem()));
        Ok(Challenge::TlsAlpn { name: self.name.to_owned(), chain, key })
    }
}

fn patience() -> RetryPolicy {
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(PATIENCE)
}

/// The request for the certificate (PKCS #10): its name is an alternative name, its subject empty.
fn request_for(name: &str, key: &KeyPair) -> Result<Vec<u8>, Failure> {
    let failed = |e: rcgen::Error| Failure::new(Kind::Trouble, e.to_string());
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key).map_err(failed)?.der().to_vec())
}
