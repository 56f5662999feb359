//! A steady load from outside: what is counted is every request that is not answered with a whole 200.

use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::http::read_answer;

const CLIENTS: usize = 8;
const PAUSE: Duration = Duration::from_millis(20);
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    done: AtomicU64,
    failures: Mutex<Vec<String>>,
}

pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Requests to an app, each on a connection of its own.
    pub(crate) fn start(address: &str, app: &str) -> Self {
        let to: SocketAddr = format!("{address}:80").parse().unwrap();
        let request =
            format!("GET / HTTP/1.1\r\nHost: {app}.{address}.nip.io\r\nConnection: close\r\n\r\n");
        let shared = Arc::new(Shared::default());
        let client = |_| {
            let (shared, request) = (shared.clone(), request.clone());
            std::thread::spawn(move || {
                while !shared.over.load(SeqCst) {
                    match once(to, &request) {
                        Ok(()) => drop(shared.done.fetch_add(1, SeqCst)),
                        Err(why) => shared.failures.lock().unwrap().push(why),
                    }
                    std::thread::sleep(PAUSE);
                }
            })
        };
        Self { clients: (0..CLIENTS).map(client).collect(), shared }
    }

    /// How many were answered; ends the test if one was not.
    pub(crate) fn finish(self, during: &str) -> u64 {
        self.shared.over.store(true, SeqCst);
        for client in self.clients {
            client.join().unwrap();
        }
        let failures = self.shared.failures.lock().unwrap();
        let done = self.shared.done.load(SeqCst);
        assert!(
            failures.is_empty(),
            "{during}: {} of {} requests failed, first: {}",
            failures.len(),
            done + failures.len() as u64,
            failures[0]
        );
        assert!(done > 20, "{during}: only {done} requests were answered");
        done
    }
}

fn once(to: SocketAddr, request: &str) -> Result<(), String> {
    let tried = || {
        let mut stream = TcpStream::connect_timeout(&to, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(request.as_bytes())?;
        read_answer(&mut BufReader::new(stream), "GET")
    };
    match tried() {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(format!("status {}", answer.status)),
        Err(error) => Err(error.to_string()),
    }
}
