//! `mini server install`: a bare machine becomes a server, over the user's own ssh.
//!
//! Two connections: one asks what the machine is, before anything is changed; one brings the programs
//! and the installer, and runs it. What ssh needs of a person (a password, whether a host key is
//! right) it asks at the terminal itself.

mod ssh;

use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use flate2::Compression;
use flate2::write::GzEncoder;
use mini_api::client::{Endpoint, Fingerprint};

use crate::commands::config::default_name;
use crate::context::Context;
use crate::failure::{Failure, Kind};
use crate::settings::Target;
use ssh::{Host, Machine};

/// The installer, which comes with this program.
const INSTALLER: &str = include_str!("../../../../packaging/install.sh");
const PROGRAMS: [&str; 3] = ["mini", "minid", "mini-static"];

/// Make a machine a server
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini server install ssh://root@203.0.113.7\n  \
                        mini server install ssh://admin@203.0.113.7:2222 --domain apps.example.com")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Install mini on a Debian or Ubuntu machine over ssh, or bring it up to date, and log in to it
    Install {
        /// ssh://[USER@]HOST[:PORT]; HOST may be one of ~/.ssh/config
        #[arg(value_name = "HOST")]
        machine: Host,
        /// Where mini, minid and mini-static are: a folder, a .tar.gz, or the https address of one that the
        /// machine fetches [default: beside this program]
        #[arg(long, value_name = "DIR|ARCHIVE|URL")]
        from: Option<String>,
        /// Apps are served at APP.NAME [default: ADDRESS.nip.io]
        #[arg(long, value_name = "NAME")]
        domain: Option<String>,
        /// The address that others reach the machine by [default: the one that ssh goes to]
        #[arg(long, value_name = "IP")]
        address: Option<IpAddr>,
        /// Its name here; left out, it is made from the address
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
    },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let Verb::Install { machine: host, from, domain, address, name } = args.verb;
    let source = Source::find(from)?;
    context.out.say(&format!("Looking at {host}"));
    let machine = host.look()?;
    let architecture = source.architecture()?;
    fits(&host, &machine, architecture.as_deref())?;
    let address = match address {
        Some(address) => address,
        None => address_of(&host)?,
    };
    context.out.say(&format!("Installing on {host} ({})", machine.system));
    let mut installer = vec!["--address".to_owned(), address.to_string()];
    if let Some(domain) = domain {
        installer.extend(["--domain".to_owned(), domain]);
    }
    let bundle = source.bundle()?;
    if let Source::Url(url) = &source {
        installer.extend(["--from".to_owned(), url.clone()]);
    }
    let out = context.out.clone();
    let mut said = Report::default();
    host.install(machine.is_root, &installer, bundle, |line| {
        // The token goes into the config file, not onto the screen.
        if !said.read(line) {
            out.say(line);
        }
    })?;
    let Some(fingerprint) = said.fingerprint else {
        return Err(Failure::failed("the installer ended without the door's fingerprint")
            .hint("`minid status` on the machine says how it is"));
    };
    log_in(context, &host, &machine, address, fingerprint, said.token, name).await
}

/// What the installer says at its end.
#[derive(Default)]
struct Report {
    fingerprint: Option<Fingerprint>,
    token: Option<String>,
}

impl Report {
    /// Takes what it looks for out of a line; whether the line is not for the screen.
    fn read(&mut self, line: &str) -> bool {
        if let Some(print) = line.strip_prefix("fingerprint of its certificate: ") {
            self.fingerprint = print.trim().parse().ok();
        }
        let mut words = line.split_whitespace();
        if line.trim_start().starts_with("mini login ")
            && let Some(token) = words.find(|w| *w == "--token").and_then(|_| words.next())
        {
            self.token = Some(token.to_owned());
            return true;
        }
        line.starts_with("To use it from your machine")
    }
}

/// Stores the server and a token for it, as `mini login` does, and makes it the current one.
async fn log_in(
    context: &Context,
    host: &Host,
    machine: &Machine,
    address: IpAddr,
    fingerprint: Fingerprint,
    token: Option<String>,
    name: Option<String>,
) -> Result<(), Failure> {
    let url = match address {
        IpAddr::V4(address) => format!("https://{address}"),
        IpAddr::V6(address) => format!("https://[{address}]"),
    };
    let endpoint: Endpoint = url.parse().map_err(|e| Failure::failed(format!("{e}")))?;
    let mut file = context.config()?;
    let known = file.with_host(&endpoint);
    let name =
        name.or(known.as_ref().map(|k| k.name.clone())).unwrap_or_else(|| default_name(&endpoint));
    let target = |token: Option<String>| Target {
        endpoint: endpoint.clone(),
        token,
        fingerprint: Some(fingerprint),
        name: Some(name.clone()),
        from: "the installation",
        note: None,
    };
    let good = async |token: &str| {
        context.client_of(target(Some(token.to_owned()))).server().await.map(|_| ())
    };
    let mut token = token.or(known.and_then(|k| k.token));
    if let Some(held) = &token {
        match good(held).await.map_err(Failure::from) {
            Ok(()) => {}
            Err(e) if e.kind == Kind::NotAuthorised => token = None,
            Err(e) => {
                return Err(e.hint(format!(
                    "the platform runs; does a firewall in front of {address} let 443 through?"
                )));
            }
        }
    }
    let token = match token {
        Some(token) => token,
        // An installed server whose first token somebody else has.
        None => {
            let token = host.make_token(machine.is_root)?;
            good(&token).await?;
            token
        }
    };
    file.set_host(&name, &endpoint);
    file.set_token(&name, &token);
    file.set_fingerprint(&name, fingerprint);
    file.set_current(&name);
    file.save()?;
    context.out.say(&format!("Logged in to {name:?} ({endpoint}). Next: `mini deploy .`"));
    Ok(())
}

fn fits(host: &Host, machine: &Machine, built_for: Option<&str>) -> Result<(), Failure> {
    if !machine.is_root && !machine.has_sudo {
        return Err(Failure::failed(format!(
            "{host}: not root there, and sudo would ask or is missing"
        ))
        .hint("name a user who may: ssh://root@HOST, or one with sudo and NOPASSWD"));
    }
    if !machine.is_debian {
        return Err(Failure::failed(format!(
            "{host} is {}, neither Debian nor Ubuntu",
            machine.system
        ))
        .hint("install on Debian 12 or Ubuntu 22.04 or newer"));
    }
    match built_for {
        Some(built) if built != machine.architecture => Err(Failure::failed(format!(
            "{host} is {}, and these programs are for {built}",
            machine.architecture
        ))
        .hint(format!("name the release for {} with --from", machine.architecture))),
        _ => Ok(()),
    }
}

/// The address behind a name; one of the fourth version is preferred, since more clients have it.
fn address_of(host: &Host) -> Result<IpAddr, Failure> {
    let name = host.real_name()?;
    let found: Vec<IpAddr> = (name.as_str(), 22)
        .to_socket_addrs()
        .map(|all| all.map(|a| a.ip()).collect())
        .unwrap_or_default();
    let best = found.iter().find(|a| a.is_ipv4()).or(found.first());
    best.copied().ok_or_else(|| {
        Failure::failed(format!("{name:?} has no address that this machine knows"))
            .hint("name the one that others reach it by: --address IP")
    })
}

/// Where the programs come from.
#[derive(Debug)]
enum Source {
    Folder(PathBuf),
    Archive(PathBuf),
    Url(String),
}

impl Source {
    fn find(from: Option<String>) -> Result<Self, Failure> {
        let Some(from) = from else {
            let own = std::env::current_exe()
                .and_then(std::fs::canonicalize)
                .map_err(|e| Failure::io("where this program lies is not known", &e))?;
            return Self::folder(own.parent().unwrap_or(Path::new("/")).to_owned());
        };
        if from.starts_with("https://") {
            return Ok(Self::Url(from));
        }
        let path = PathBuf::from(&from);
        if path.is_dir() {
            Self::folder(path)
        } else if path.is_file() {
            Ok(Self::Archive(path))
        } else {
            Err(Failure::usage(format!("--from {from}: there is no such folder or file")))
        }
    }

    fn folder(path: PathBuf) -> Result<Self, Failure> {
        match PROGRAMS.iter().find(|name| !path.join(name).is_file()) {
            None => Ok(Self::Folder(path)),
            Some(name) => Err(Failure::usage(format!("{} holds no {name}", path.display())).hint(
                "name a release for the machine with --from: a folder, a .tar.gz or its address",
            )),
        }
    }

    /// What the programs were built for, as `uname -m` says it, if that can be seen here.
    fn architecture(&self) -> Result<Option<String>, Failure> {
        let Self::Folder(path) = self else { return Ok(None) };
        let path = path.join("minid");
        let mut head = [0; 20];
        std::fs::File::open(&path)
            .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head))
            .map_err(|e| Failure::io(path.display(), &e))?;
        // ELF: e_machine stands at 18 (elf(5)).
        let built = match (&head[..4], head[18]) {
            (b"\x7fELF", 0x3e) => "x86_64",
            (b"\x7fELF", 0xb7) => "aarch64",
            (b"\x7fELF", _) => "another architecture",
            _ => "another system than Linux",
        };
        Ok(Some(built.to_owned()))
    }

    /// A tar with the installer, and the programs unless the machine fetches them itself.
    fn bundle(&self) -> Result<Vec<u8>, Failure> {
        let failed = |e: std::io::Error| Failure::io("the programs cannot be packed", &e);
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_size(INSTALLER.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, "install.sh", INSTALLER.as_bytes()).map_err(failed)?;
        match self {
            Self::Folder(path) => {
                for name in PROGRAMS {
                    tar.append_path_with_name(path.join(name), name).map_err(failed)?;
                }
            }
            Self::Archive(path) => {
                tar.append_path_with_name(path, "release.tar.gz").map_err(failed)?;
            }
            Self::Url(_) => {}
        }
        tar.into_inner().and_then(GzEncoder::finish).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installers_last_words_are_understood_and_the_token_is_not_shown() {
        let mut report = Report::default();
        let print = "ab".repeat(32);
        assert!(!report.read("Programs: 0.1.0-abc"));
        assert!(!report.read(&format!("fingerprint of its certificate: {print}")));
        assert!(report.read("To use it from your machine (the token is shown this once):"));
        let line = format!("  mini login https://1.2.3.4 --fingerprint {print} --token mini_x_y");
        assert!(report.read(&line));
        assert_eq!(report.token.as_deref(), Some("mini_x_y"));
        assert_eq!(report.fingerprint.unwrap().to_string(), print);
    }

    #[test]
    fn a_machine_that_does_not_fit_is_refused_with_the_way_out() {
        let host: Host = "ssh://me@a".parse().unwrap();
        let good = Machine {
            architecture: "x86_64".into(),
            system: "Debian GNU/Linux 12".into(),
            is_debian: true,
            is_root: true,
            has_sudo: false,
        };
        assert!(fits(&host, &good, Some("x86_64")).is_ok());
        assert!(fits(&host, &good, None).is_ok());
        let arm = Machine { architecture: "aarch64".into(), ..good.clone() };
        let refused = fits(&host, &arm, Some("x86_64")).unwrap_err();
        assert!(refused.message.contains("aarch64") && refused.message.contains("x86_64"));
        let nobody = Machine { is_root: false, ..good.clone() };
        assert!(fits(&host, &nobody, None).unwrap_err().message.contains("sudo"));
        let other = Machine { is_debian: false, system: "Fedora Linux 43".into(), ..good };
        assert!(fits(&host, &other, None).unwrap_err().message.contains("Fedora"));
    }
}
