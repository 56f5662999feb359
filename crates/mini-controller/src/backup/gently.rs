//! Work that takes the processor only as far as nobody else wants it: apps are served meanwhile.

use rustix::process::{getpriority_process, setpriority_process};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::BackupError;
use crate::store::StoreError;

/// setpriority(2): a tenth of what others get, where there is not enough for all.
const NICE: i32 = 10;

/// Lowers the priority of this thread, and of those that it starts from here on. Where that may not be done,
/// and where it is lower already, it stays as it is.
pub fn step_back() {
    if getpriority_process(None).is_ok_and(|nice| nice < NICE) {
        let _ = setpriority_process(None, NICE);
    }
}

/// Runs `work` on a thread of its own: on Linux the priority is a thread's, and one that may not raise it
/// again has it for good.
pub(super) async fn gently<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    let (done, told) = oneshot::channel();
    let failed = |why: String| BackupError::Store(StoreError::Sqlite(why));
    let runtime = Handle::current();
    let thread = std::thread::Builder::new().name("backup".into()).spawn(move || {
        // What reads a volume starts tasks.
        let _inside = runtime.enter();
        step_back();
        let _ = done.send(work());
    });
    thread.map_err(|error| failed(error.to_string()))?;
    told.await.unwrap_or_else(|_| Err(failed("the thread that wrote the backup broke off".into())))
}
