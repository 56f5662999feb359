//! The user's own ssh client, started with argument vectors. What it runs on the other side goes through
//! that side's login shell, as ssh has it (RFC 4254 6.5); only fixed words and quoted ones are sent.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::str::FromStr;

use crate::failure::{Failure, Kind};

/// ssh's own failures end with this; every other code is the remote command's (ssh(1)).
const SSH_FAILED: i32 = 255;
const CONNECT_TIMEOUT: &str = "ConnectTimeout=15";

/// Said by every Linux machine that has a shell.
const LOOK: &str = "uname -m; id -u; sudo -n true 2>/dev/null && echo sudo || echo none; \
                    cat /etc/os-release 2>/dev/null";

/// `ssh://[USER@]HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    user: Option<String>,
    host: String,
    port: Option<u16>,
}

/// What a machine said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Machine {
    /// As `uname -m` says it.
    pub(super) architecture: String,
    /// Its name for people.
    pub(super) system: String,
    pub(super) is_debian: bool,
    pub(super) is_root: bool,
    pub(super) has_sudo: bool,
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not ssh://[USER@]HOST[:PORT]");
        let rest = text.strip_prefix("ssh://").ok_or_else(bad)?.trim_end_matches('/');
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user.to_owned()), rest),
            None => (None, rest),
        };
        let (host, port) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(bad)?)),
            None => rest.split_once(':').map_or((rest, None), |(h, p)| (h, Some(p))),
        };
        let port = port.map(|p| p.parse::<u16>().map_err(|_| bad())).transpose()?;
        // What begins with a dash would be an option of ssh's.
        let word = |w: &str| {
            !w.is_empty()
                && !w.starts_with('-')
                && w.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
        };
        if !word(host) || !user.as_deref().is_none_or(word) || port == Some(0) {
            return Err(bad());
        }
        Ok(Self { user, host: host.to_owned(), port })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Host {
    fn ssh(&self) -> Command {
        let mut command = Command::new("ssh");
        command.args(["-o", CONNECT_TIMEOUT, "-T"]);
        if let Some(user) = &self.user {
            command.args(["-l", user]);
        }
        if let Some(port) = self.port {
            command.args(["-p", &port.to_string()]);
        }
        command
    }

    /// The name or address behind an alias of the user's ssh configuration.
    pub(super) fn real_name(&self) -> Result<String, Failure> {
        let said = self.ssh().args(["-G", "--", &self.host]).output().map_err(no_ssh)?;
        let text = String::from_utf8_lossy(&said.stdout);
        let name = text.lines().find_map(|line| line.strip_prefix("hostname "));
        Ok(name.unwrap_or(&self.host).trim().to_owned())
    }

    /// Asks the machine what it is; changes nothing.
    pub(super) fn look(&self) -> Result<Machine, Failure> {
        let mut command = self.ssh();
        command.args(["--", &self.host, LOOK]).stdin(Stdio::null());
        let said = command.output().map_err(no_ssh)?;
        let text = String::from_utf8_lossy(&said.stdout);
        if said.status.code() == Some(SSH_FAILED) {
            return Err(self.refused(&String::from_utf8_lossy(&said.stderr)));
        }
        read_machine(&text).ok_or_else(|| {
            Failure::failed(format!("{self} did not say what it is: {:?}", text.trim()))
                .hint("does its login shell print something of its own, or run one command only?")
        })
    }

    /// Brings `bundle` (a .tar.gz with install.sh) there and runs the installer with these arguments,
    /// from the folder that it was unpacked in. Each line that it prints goes to `line`.
    pub(super) fn install(
        &self,
        is_root: bool,
        arguments: &[String],
        bundle: Vec<u8>,
        mut line: impl FnMut(&str),
    ) -> Result<(), Failure> {
        let words: Vec<String> = arguments.iter().map(|a| quoted(a)).collect();
        let sudo = if is_root { "" } else { "sudo -n " };
        // An archive that came along is what the installer is to take, unless it was told another.
        let script = format!(
            "d=$(mktemp -d) && trap 'rm -rf \"$d\"' EXIT && tar -xzf - -C \"$d\" && \
             f=$d && if [ -f \"$d/release.tar.gz\" ]; then f=$d/release.tar.gz; fi && \
             {sudo}bash \"$d/install.sh\" --from \"$f\" {} 2>&1 </dev/null",
            words.join(" ")
        );
        let mut command = self.ssh();
        command.args(["--", &self.host, &script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(no_ssh)?;
        let stdin = child.stdin.take();
        let sending = std::thread::spawn(move || {
            // One that ends early says why itself.
            stdin.map(|mut to| to.write_all(&bundle))
        });
        let stderr = child.stderr.take();
        let complaining = std::thread::spawn(move || {
            let mut text = String::new();
            if let Some(mut from) = stderr {
                let _ = from.read_to_string(&mut text);
            }
            text
        });
        let mut last_error = None;
        let mut last_hint = None;
        if let Some(from) = child.stdout.take() {
            for said in BufReader::new(from).lines() {
                let Ok(said) = said else { break };
                if let Some(error) = said.strip_prefix("error: ") {
                    last_error = Some(error.to_owned());
                } else if let Some(hint) =
                    said.strip_prefix("hint: ").filter(|_| last_error.is_some())
                {
                    last_hint = Some(hint.to_owned());
                } else {
                    line(&said);
                }
            }
        }
        let status = child.wait().map_err(no_ssh)?;
        let _ = sending.join();
        let complaint = complaining.join().unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        if status.code() == Some(SSH_FAILED) {
            return Err(self.refused(&complaint));
        }
        let message = last_error.unwrap_or_else(|| last_words(&complaint));
        let failure = Failure::failed(format!("{self}: {message}"));
        Err(match last_hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        })
    }

    /// A new token of the installed server.
    pub(super) fn make_token(&self, is_root: bool) -> Result<String, Failure> {
        let sudo = if is_root { "" } else { "sudo -n " };
        let script =
            format!("{sudo}/usr/local/bin/minid token create --name 'mini server install'");
        let mut command = self.ssh();
        command.args(["--", &self.host, &script]).stdin(Stdio::null());
        let said = command.output().map_err(no_ssh)?;
        let token = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        if said.status.success() && token.starts_with("mini_") {
            return Ok(token);
        }
        let why = String::from_utf8_lossy(&said.stderr).trim().to_owned();
        Err(Failure::failed(format!("{self} made no token: {}", last_words(&why)))
            .hint("`minid token create --name NAME` on it prints one, for `mini login`"))
    }

    /// What ssh said, and what to do about it.
    fn refused(&self, said: &str) -> Failure {
        let hint = if said.contains("HOST IDENTIFICATION HAS CHANGED") {
            format!(
                "if the machine was made anew, forget its old key: ssh-keygen -R {}; if not, somebody \
                 may be in between",
                self.port.map_or(self.host.clone(), |port| format!("'[{}]:{port}'", self.host))
            )
        } else if said.contains("Host key verification failed") {
            format!("connect once by hand and compare the key: ssh {self}")
        } else if said.contains("Permission denied") {
            "is your public key in its ~/.ssh/authorized_keys, and the user's name right?"
                .to_owned()
        } else if said.contains("Could not resolve") {
            "is the name right? `ssh://IP` works too".to_owned()
        } else {
            "is the machine on, its sshd running, and its port open to you?".to_owned()
        };
        let words: Vec<&str> = said
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.chars().all(|c| c == '@' || c == ' '))
            .collect();
        Failure::new(
            Kind::Unreachable,
            format!("ssh to {self} failed: {}", words.join("\n       ")),
        )
        .hint(hint)
    }
}

fn no_ssh(error: std::io::Error) -> Failure {
    let failure = Failure::io("ssh cannot be started", &error);
    if error.kind() == std::io::ErrorKind::NotFound {
        return failure.hint("install an OpenSSH client");
    }
    failure
}

fn last_words(text: &str) -> String {
    text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned()
}

/// As one word of a POSIX shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn read_machine(text: &str) -> Option<Machine> {
    let mut lines = text.lines();
    let architecture = lines.next()?.trim().to_owned();
    let uid: u32 = lines.next()?.trim().parse().ok()?;
    let has_sudo = lines.next()?.trim() == "sudo";
    let release: Vec<(&str, &str)> = lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name, value.trim_matches('"')))
        .collect();
    let value = |name: &str| release.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| *v);
    let like = format!("{} {}", value("ID"), value("ID_LIKE"));
    let system = match value("PRETTY_NAME") {
        "" => "an unknown system",
        name => name,
    };
    Some(Machine {
        architecture,
        system: system.to_owned(),
        is_debian: like.split(' ').any(|id| id == "debian" || id == "ubuntu"),
        is_root: uid == 0,
        has_sudo,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_and_no_option_of_ssh_is_one() {
        let shown = |text: &str| text.parse::<Host>().map(|h| h.to_string()).map_err(|_| ());
        assert_eq!(shown("ssh://root@1.2.3.4"), Ok("root@1.2.3.4".into()));
        assert_eq!(shown("ssh://a.test:2222/"), Ok("a.test:2222".into()));
        let v6: Host = "ssh://root@[2001:db8::1]:22".parse().unwrap();
        assert_eq!((v6.host.as_str(), v6.port), ("2001:db8::1", Some(22)));
        for bad in [
            "root@a",
            "https://a",
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://-l@a",
            "ssh://a:0",
            "ssh://a:x",
            "ssh://a b",
            "ssh://a/b",
        ] {
            assert_eq!(shown(bad), Err(()), "{bad}");
        }
    }

    #[test]
    fn what_a_machine_says_is_understood() {
        let text = "x86_64\n0\nnone\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n";
        let machine = read_machine(text).unwrap();
        assert!(machine.is_root && machine.is_debian && !machine.has_sudo);
        assert_eq!(machine.system, "Debian GNU/Linux 12 (bookworm)");
        let mint = "aarch64\n1000\nsudo\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n";
        assert!(read_machine(mint).unwrap().is_debian);
        assert!(!read_machine("x86_64\n0\nnone\nID=fedora\n").unwrap().is_debian);
        assert_eq!(read_machine("This account is currently not available.\n"), None);
    }

    #[test]
    fn what_ssh_says_comes_with_a_way_out() {
        let host: Host = "ssh://root@a:23".parse().unwrap();
        let refused = host.refused("ssh: connect to host a port 23: Connection refused\r\n");
        assert_eq!(refused.kind, Kind::Unreachable);
        assert!(refused.message.contains("Connection refused"), "{refused:?}");
        let changed =
            host.refused("@@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n@@@\n");
        assert!(changed.hint.unwrap().contains("ssh-keygen -R '[a]:23'"));
        assert_eq!(quoted("a'b"), r"'a'\''b'");
    }
}
