//! Ctrl-C: the first one is the command's to handle, the second one ends it at once.

use tokio::sync::watch;

use crate::failure::Kind;

#[derive(Clone)]
pub(crate) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// From now on Ctrl-C no longer ends the process by itself.
    pub(crate) fn listen() -> Self {
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_err() {
                return;
            }
            // Nobody listening any more means that the command is ending anyway.
            let _ = sender.send(true);
            if tokio::signal::ctrl_c().await.is_ok() {
                exit();
            }
        });
        Self(receiver)
    }

    /// Waits for the first Ctrl-C.
    pub(crate) async fn hit(&self) {
        if self.0.clone().wait_for(|hit| *hit).await.is_err() {
            // Signals cannot be listened for here, so none will come.
            std::future::pending::<()>().await;
        }
    }
}

#[expect(clippy::exit, reason = "the user asked twice: nothing may stand in the way")]
fn exit() {
    std::process::exit(i32::from(Kind::Interrupted.exit_code()));
}
