//! How certificates are ordered: flags and their environment twins.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use mini_controller::{Acme, LETS_ENCRYPT};

use crate::output::Fault;

#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Certificates")]
pub(crate) struct AcmeFlags {
    /// Where the certificate authority writes to; giving it agrees to the authority's terms, and
    /// certificates are ordered for every public name
    #[arg(long, env = "MINID_ACME_EMAIL", value_name = "ADDRESS")]
    acme_email: Option<String>,
    /// Agree to the certificate authority's terms without an address
    #[arg(
        long,
        env = "MINID_ACME_AGREE",
        action = clap::ArgAction::SetTrue,
        value_parser = clap::builder::FalseyValueParser::new()
    )]
    acme_agree: bool,
    /// The certificate authority's directory (RFC 8555), or `off`
    #[arg(long, env = "MINID_ACME_DIRECTORY", default_value = LETS_ENCRYPT, value_name = "URL")]
    acme_directory: String,
    /// Check the directory's own certificate with this bundle (PEM) instead of the system's
    #[arg(long, env = "MINID_ACME_CA", value_name = "FILE")]
    acme_ca: Option<PathBuf>,
    /// From a name's first failed order to the next try; the waits then grow to a day
    #[arg(
        long,
        env = "MINID_ACME_RETRY_S",
        default_value_t = 60,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    acme_retry_s: u64,
    /// Renew a certificate at this age instead of when the authority suggests (for tests)
    #[arg(long, env = "MINID_ACME_RENEW_AFTER_S", value_name = "SECONDS", hide = true)]
    acme_renew_after_s: Option<u64>,
    /// Ask the authority this often when to renew, instead of when it says (for tests)
    #[arg(long, env = "MINID_ACME_CHECK_S", value_name = "SECONDS", hide = true)]
    acme_check_s: Option<u64>,
}

impl AcmeFlags {
    /// How certificates are ordered, and why not if they are not.
    pub(crate) fn resolve(&self, https: bool) -> Result<Acme, Fault> {
        let directory = self.acme_directory.trim();
        let wrong = |text: String, hint: &str| Err(Fault::new(text).hint(hint));
        let off = directory == "off";
        if !off && !directory.starts_with("https://") {
            return wrong(
                format!("--acme-directory: {directory:?} is not an https URL"),
                "name the authority's directory, such as https://acme-v02.api.letsencrypt.org/directory, or off",
            );
        }
        let email = self.acme_email.as_deref().map(str::trim).filter(|e| !e.is_empty());
        let good = |e: &str| {
            let (user, host) = e.split_once('@').unwrap_or_default();
            let bad = |c: char| c.is_whitespace() || c.is_control() || ",;:<>?".contains(c);
            !user.is_empty() && host.contains('.') && !host.contains('@') && !e.contains(bad)
        };
        if let Some(bad) = email.filter(|e| !good(e)) {
            return wrong(
                format!("--acme-email: {bad:?} is not a mail address"),
                "one address, such as you@example.com",
            );
        }
        let ca_bundle = self.acme_ca.as_ref().map(std::path::absolute).transpose();
        let ca_bundle = ca_bundle.map_err(|error| Fault::new(format!("--acme-ca: {error}")))?;
        let why_off = if off {
            Some("--acme-directory is off".to_owned())
        } else if email.is_none() && !self.acme_agree {
            Some(
                "the authority's terms are not agreed to; start minid with --acme-email \
                 you@example.com (MINID_ACME_EMAIL), or with --acme-agree"
                    .to_owned(),
            )
        } else {
            None
        };
        Ok(Acme {
            directory: directory.to_owned(),
            email: email.map(str::to_owned),
            ca_bundle,
            off: why_off,
            http: true,
            https,
            retry: Duration::from_secs(self.acme_retry_s),
            renew_after: self.acme_renew_after_s.map(Duration::from_secs),
            check_every: self.acme_check_s.map(Duration::from_secs),
        })
    }

    /// The environment that makes a child resolve the same.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let seconds = |name, value: Option<u64>| Some((name, value?.to_string().into()));
        let always = [
            ("MINID_ACME_DIRECTORY", self.acme_directory.clone().into()),
            ("MINID_ACME_RETRY_S", self.acme_retry_s.to_string().into()),
        ];
        let sometimes = [
            self.acme_agree.then(|| ("MINID_ACME_AGREE", "true".into())),
            self.acme_email.clone().map(|email| ("MINID_ACME_EMAIL", email.into())),
            self.acme_ca.clone().map(|path| ("MINID_ACME_CA", path.into())),
            seconds("MINID_ACME_RENEW_AFTER_S", self.acme_renew_after_s),
            seconds("MINID_ACME_CHECK_S", self.acme_check_s),
        ];
        always.into_iter().chain(sometimes.into_iter().flatten()).collect()
    }
}
