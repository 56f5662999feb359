//! Who may come in: an app's rules against what a request's head says. Pure; asked once a request,
//! before its body is read.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use mini_core::cidr::Cidr;
use mini_core::rules::{RuleTimeouts, Rules, User};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use crate::Timeouts;
use crate::error_page::Code;

/// Longer credentials are nobody's.
const LONGEST_CREDENTIALS: usize = 4096;

/// An app's rules in the form that requests are held against, made once when its route is applied.
#[derive(Debug, Default)]
pub(crate) struct CompiledRules {
    /// Whether [`admit`] has nothing to look at: most apps.
    open: bool,
    maintenance: bool,
    allow: Vec<Cidr>,
    /// Anybody may come in where there are none.
    accounts: Vec<Account>,
    /// The largest request body, in bytes. What is longer without having said so is cut by the
    /// forwarder.
    pub(crate) body_limit: Option<u64>,
    timeouts: RuleTimeouts,
    pages: Pages,
}

#[derive(Debug)]
struct Account {
    name: Vec<u8>,
    salt: Vec<u8>,
    sha256: [u8; 32],
}

impl Account {
    /// A user whose hash is not one gets an account that no password opens: the app stays shut.
    fn new(user: &User) -> Self {
        let decoded = hex::decode(&user.salt).ok().zip(hex::decode(&user.sha256).ok());
        let whole = decoded.and_then(|(salt, hash)| Some((salt, <[u8; 32]>::try_from(hash).ok()?)));
        let (salt, sha256) = whole.unwrap_or_else(|| {
            tracing::error!(user = user.name, "a user's password hash cannot be read");
            (Vec::new(), [0; 32])
        });
        Self { name: user.name.clone().into_bytes(), salt, sha256 }
    }
}

impl CompiledRules {
    pub(crate) fn new(rules: &Rules) -> Self {
        Self {
            open: !rules.maintenance
                && rules.allow.is_empty()
                && rules.users.is_empty()
                && rules.body_limit.is_none(),
            maintenance: rules.maintenance,
            allow: rules.allow.clone(),
            accounts: rules.users.iter().map(Account::new).collect(),
            body_limit: rules.body_limit,
            timeouts: rules.timeouts.clone(),
            pages: Pages::new(&rules.pages),
        }
    }

    /// The platform's deadlines, with the app's own in their place.
    pub(crate) fn deadlines(&self, platform: &Timeouts) -> Timeouts {
        let own = &self.timeouts;
        let or = |ms: Option<u64>, platform| ms.map_or(platform, Duration::from_millis);
        Timeouts {
            connect: or(own.connect_ms, platform.connect),
            first_byte: or(own.first_byte_ms, platform.first_byte),
            body_idle: or(own.idle_ms, platform.body_idle),
            upgraded_idle: or(own.upgraded_idle_ms, platform.upgraded_idle),
            half_closed: platform.half_closed,
            handshake: platform.handshake,
        }
    }

    /// Whether [`admit`] lets everything pass, so that nobody has to ask.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// The app's own page for a code, for clients that read HTML.
    pub(crate) fn page(&self, code: Code) -> Option<&Bytes> {
        self.pages.of(code.name())
    }
}

/// What a request says of itself, as far as rules go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// The client itself, not a proxy that is trusted.
    pub(crate) client: IpAddr,
    /// The value of the one Authorization field; `None` if there are several, too.
    pub(crate) authorization: Option<&'a [u8]>,
    /// What Content-Length says; `None` for a chunked body and for none.
    pub(crate) content_length: Option<u64>,
}

/// Lets a request pass, or says with which code it is answered.
///
/// First who may not come at all, so that a stranger learns nothing; then maintenance, so that no
/// password is asked for what is closed anyway. The Authorization field passes on to the app,
/// which may want to know who asks.
pub(crate) fn admit(rules: &CompiledRules, asked: Asked<'_>) -> Result<(), Code> {
    if rules.open {
        return Ok(());
    }
    if !rules.allow.is_empty() && !rules.allow.iter().any(|net| net.contains(asked.client)) {
        return Err(Code::AddressNotAllowed);
    }
    if rules.maintenance {
        return Err(Code::H80);
    }
    if !rules.accounts.is_empty() && !knows(&rules.accounts, asked.authorization) {
        return Err(Code::PasswordRequired);
    }
    match (rules.body_limit, asked.content_length) {
        (Some(limit), Some(length)) if length > limit => Err(Code::BodyTooLarge),
        _ => Ok(()),
    }
}

/// Whether the credentials are an account's (RFC 7617 section 2). How long it takes says nothing
/// of which names there are, and one password is hashed, however many accounts.
fn knows(accounts: &[Account], authorization: Option<&[u8]>) -> bool {
    let Some((name, password)) = authorization.and_then(credentials) else { return false };
    let (mut found, mut index) = (Choice::from(0), 0_u32);
    for (at, account) in accounts.iter().enumerate() {
        let same = account.name.ct_eq(&name);
        index.conditional_assign(&(at as u32), same);
        found |= same;
    }
    let Some(account) = accounts.get(index as usize) else { return false };
    let hash = Sha256::new().chain_update(&account.salt).chain_update(&password).finalize();
    let same = hash.as_slice().ct_eq(&account.sha256);
    (found & same).into()
}

fn credentials(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, rest) = value.split_at_checked(5)?;
    if !scheme.eq_ignore_ascii_case(b"basic") || !rest.starts_with(b" ") {
        return None;
    }
    let token = rest.trim_ascii();
    let decoded = STANDARD.decode(Some(token).filter(|t| t.len() <= LONGEST_CREDENTIALS)?).ok()?;
    let colon = decoded.iter().position(|b| *b == b':')?;
    Some((decoded[..colon].to_vec(), decoded[colon + 1..].to_vec()))
}

/// An app's own error pages.
#[derive(Debug, Default)]
struct Pages {
    by_code: Vec<(String, Bytes)>,
    /// The page for `*`.
    any: Option<Bytes>,
}

impl Pages {
    fn new(pages: &[(String, String)]) -> Self {
        let mut own = Self::default();
        for (code, html) in pages {
            let html = Bytes::from(html.clone());
            match code.as_str() {
                "*" => own.any = Some(html),
                code => own.by_code.push((code.to_owned(), html)),
            }
        }
        own
    }

    fn of(&self, code: &str) -> Option<&Bytes> {
        let own = self.by_code.iter().find(|(own, _)| own == code).map(|(_, html)| html);
        own.or(self.any.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, password: &str) -> User {
        let salt = [7; 16];
        let hash = Sha256::new().chain_update(salt).chain_update(password).finalize();
        User { name: name.into(), salt: hex::encode(salt), sha256: hex::encode(hash) }
    }

    fn asked(client: &str) -> Asked<'static> {
        Asked { client: client.parse().unwrap(), authorization: None, content_length: None }
    }

    fn basic(text: &str) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(text)).into_bytes()
    }

    #[test]
    fn without_rules_everything_passes() {
        let rules = CompiledRules::new(&Rules::default());
        let large = Asked { content_length: Some(u64::MAX), ..asked("8.8.8.8") };
        assert_eq!(admit(&rules, large), Ok(()));
        assert!(rules.open);
    }

    #[test]
    fn only_addresses_of_the_list_come_in() {
        let allow = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let rules = CompiledRules::new(&Rules { allow, maintenance: true, ..Rules::default() });
        for known in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"] {
            assert_eq!(admit(&rules, asked(known)), Err(Code::H80), "{known}");
        }
        for stranger in ["11.1.2.3", "2001:db9::1", "::1"] {
            assert_eq!(admit(&rules, asked(stranger)), Err(Code::AddressNotAllowed), "{stranger}");
        }
    }

    #[test]
    fn only_who_knows_the_password_comes_in() {
        let users = vec![user("admin", "s3cret:with:colons"), user("bob", "pass ü")];
        let rules = CompiledRules::new(&Rules { users, ..Rules::default() });
        let ask =
            |value: &[u8]| admit(&rules, Asked { authorization: Some(value), ..asked("8.8.8.8") });
        assert_eq!(ask(&basic("admin:s3cret:with:colons")), Ok(()));
        assert_eq!(ask(&basic("bob:pass ü")), Ok(()));
        let lower = String::from_utf8(basic("bob:pass ü")).unwrap().replace("Basic ", "bASIC   ");
        assert_eq!(ask(lower.as_bytes()), Ok(()), "the scheme's case and blanks do not matter");
        assert_eq!(admit(&rules, asked("8.8.8.8")), Err(Code::PasswordRequired));
        let long = basic(&format!("admin:{}", "x".repeat(10_000)));
        for wrong in [
            &basic("admin:pass ü")[..],
            &basic("bob:s3cret:with:colons"),
            &basic("admin:"),
            &basic(":s3cret:with:colons"),
            &basic("carol:s3cret:with:colons"),
            &basic("admin"),
            b"Basic",
            b"Basic ",
            b"Basic !!!",
            b"Basicx YTpi",
            b"Bearer YTpi",
            b"",
            &long,
        ] {
            assert_eq!(ask(wrong), Err(Code::PasswordRequired), "{:?}", wrong.escape_ascii());
        }
    }

    #[test]
    fn a_hash_that_cannot_be_read_shuts_the_app() {
        for (salt, sha256) in [("zz", "00"), ("", ""), ("00", "0011")] {
            let users = vec![User { name: "a".into(), salt: salt.into(), sha256: sha256.into() }];
            let rules = CompiledRules::new(&Rules { users, ..Rules::default() });
            let value = basic("a:");
            let asked = Asked { authorization: Some(&value), ..asked("8.8.8.8") };
            assert_eq!(admit(&rules, asked), Err(Code::PasswordRequired));
        }
    }

    #[test]
    fn a_body_that_says_it_is_too_large_is_refused() {
        let rules = CompiledRules::new(&Rules { body_limit: Some(10), ..Rules::default() });
        let ask = |length| admit(&rules, Asked { content_length: length, ..asked("8.8.8.8") });
        assert_eq!(ask(Some(11)), Err(Code::BodyTooLarge));
        assert_eq!((ask(Some(10)), ask(Some(0)), ask(None)), (Ok(()), Ok(()), Ok(())));
    }

    #[test]
    fn the_apps_deadlines_take_the_place_of_the_platforms() {
        let timeouts = RuleTimeouts { first_byte_ms: Some(90_000), ..RuleTimeouts::default() };
        let rules = CompiledRules::new(&Rules { timeouts, ..Rules::default() });
        let first_byte = Duration::from_secs(90);
        let platform = Timeouts::default();
        assert_eq!(rules.deadlines(&platform), Timeouts { first_byte, ..platform });
    }

    #[test]
    fn a_page_of_the_code_goes_before_the_page_of_all() {
        let page = |code: &str, html: &str| (code.to_owned(), html.to_owned());
        let pages = vec![page("*", "any"), page("H80", "closed")];
        let rules = CompiledRules::new(&Rules { pages, ..Rules::default() });
        assert_eq!(rules.page(Code::H80).unwrap(), "closed");
        assert_eq!(rules.page(Code::H10).unwrap(), "any");
        assert!(CompiledRules::new(&Rules::default()).page(Code::H10).is_none());
    }
}
