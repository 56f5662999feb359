//! `mini-static dial ADDRESS:PORT…`: what of it can be reached from here, for `minid doctor`.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::say;

const PATIENCE: Duration = Duration::from_secs(1);

/// Tries all at once, and prints a line for each: the address, and `open`, `refused`, `timeout` or
/// what else the system says.
pub(crate) fn all(words: impl Iterator<Item = String>) -> Result<(), String> {
    let addresses = words
        .map(|word| word.parse().map_err(|_| format!("{word} is no address with a port")))
        .collect::<Result<Vec<SocketAddr>, String>>()?;
    let tries: Vec<_> = addresses
        .into_iter()
        .map(|address| (address, std::thread::spawn(move || dial(address))))
        .collect();
    for (address, attempt) in tries {
        let found = attempt.join().unwrap_or_else(|_| "broken off".to_owned());
        say(&mut io::stdout(), &format!("{address} {found}"));
    }
    Ok(())
}

fn dial(address: SocketAddr) -> String {
    match TcpStream::connect_timeout(&address, PATIENCE) {
        Ok(_) => "open".to_owned(),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => "refused".to_owned(),
            ErrorKind::TimedOut => "timeout".to_owned(),
            _ => error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_is_open_and_what_does_not_is_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(dial(address), "open");
        drop(listener);
        assert_eq!(dial(address), "refused");
        assert!(all(["nowhere".to_owned()].into_iter()).is_err());
    }
}
