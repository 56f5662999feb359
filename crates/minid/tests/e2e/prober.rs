//! A client that asks an app without pause while a test does something to the platform.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http;

/// Between two requests: enough to meet every change of the routes, and leaves the machine to
/// what is tested.
const PAUSE: Duration = Duration::from_millis(8);

pub(crate) struct Prober {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    asked: AtomicU64,
    failures: Mutex<Vec<String>>,
    paused: AtomicBool,
    /// Held while a request is under way.
    asking: Mutex<()>,
    over: AtomicBool,
}

impl Prober {
    /// Asks for `/` of the app; every answer must be a 200 of that app.
    pub(crate) fn start(port: u16, app: &str) -> Self {
        let shared = Arc::new(Shared::default());
        let (own, app) = (shared.clone(), app.to_owned());
        let thread = std::thread::spawn(move || {
            let (host, hello) = (format!("{app}.localhost"), format!("hello from {app} "));
            let begun = Instant::now();
            while !own.over.load(SeqCst) {
                let guard = own.asking.lock().expect("no thread panics with it");
                if !own.paused.load(SeqCst) {
                    let answer = http::request(port, &host, ("GET", "/"), &[], b"");
                    let failure = match answer {
                        Ok(a) if a.status == 200 && a.text().starts_with(&hello) => None,
                        Ok(a) if a.status == 200 => Some(format!("WRONG APP: {}", a.text())),
                        Ok(a) => Some(format!("{} {:?}", a.status, a.header("x-mini-error"))),
                        Err(error) => Some(error.to_string()),
                    };
                    own.asked.fetch_add(1, SeqCst);
                    if let Some(failure) = failure {
                        let at = begun.elapsed().as_millis();
                        own.failures.lock().expect("as above").push(format!("{at} ms: {failure}"));
                    }
                }
                drop(guard);
                std::thread::sleep(PAUSE);
            }
        });
        Self { shared, thread: Some(thread) }
    }

    pub(crate) fn asked(&self) -> u64 {
        self.shared.asked.load(SeqCst)
    }

    /// What failed since the last time this was asked.
    pub(crate) fn failures(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.failures.lock().expect("no thread panics with it"))
    }

    /// Returns when no request is under way; none is sent until [`Self::go_on`].
    pub(crate) fn pause(&self) {
        self.shared.paused.store(true, SeqCst);
        drop(self.shared.asking.lock());
    }

    pub(crate) fn go_on(&self) {
        self.shared.paused.store(false, SeqCst);
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
