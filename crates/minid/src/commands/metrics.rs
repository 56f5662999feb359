//! `minid metrics`: the proxy's counters, as Prometheus reads them.

use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::output::{self, Fault};
use crate::settings::Flags;

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
#[command(
    after_help = "The same is served at GET /metrics, on the socket metrics.sock in the data \
                        folder and, with --metrics-listen, on a port."
)]
pub(crate) struct Args {
    #[command(flatten)]
    flags: Flags,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Fault> {
    let settings = args.flags.resolve()?;
    let socket = settings.proxy_sockets.live("metrics.sock");
    let failed = |why: String| {
        Fault::new(format!("no metrics from {}: {why}", socket.display()))
            .hint("`minid status` says whether the proxy runs; it needs root or the folder's owner")
    };
    let asked = async {
        let mut stream = UnixStream::connect(&socket).await.map_err(|e| e.to_string())?;
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request).await.map_err(|e| e.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(|e| e.to_string())?;
        Ok::<_, String>(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    let answer = answer.unwrap_or_else(|_| Err("it does not answer".into())).map_err(failed)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => output::text(body),
        _ => return Err(failed("its answer cannot be read".into())),
    }
    Ok(ExitCode::SUCCESS)
}
