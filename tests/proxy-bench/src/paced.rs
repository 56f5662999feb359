//! Load at a fixed rate: requests are sent when it is their time, whatever became of those before
//! them. Latency counts from that time, so that a proxy that stalls cannot hide it by keeping the
//! next requests from being sent.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{Timespec, epoll};

use crate::http::{connect, end_of_head};
use crate::random::Random;
use crate::{CONNECTIONS, HOST};

/// What is sent before the latencies count.
const WARM: Duration = Duration::from_millis(300);
/// An answer takes no longer.
const STUCK: Duration = Duration::from_secs(10);

struct Connection {
    stream: TcpStream,
    /// When its request was due.
    due: Instant,
    /// What has come of the answer.
    got: Vec<u8>,
    /// The answer's length, once its head is here.
    whole: Option<usize>,
}

/// The latencies in microseconds, in ascending order, of requests at `rate` a second: due at
/// random (Poisson's) times, the same for the same seed.
pub(crate) fn latencies(
    to: SocketAddr,
    path: &str,
    rate: f64,
    time: Duration,
    seed: u64,
) -> Result<Vec<f64>> {
    // Else the kernel wakes a sleeper up to 50 us late.
    let _ = std::fs::write("/proc/self/timerslack_ns", "1000");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = Vec::new();
    for n in 0..CONNECTIONS {
        connections.push(open(&poll, to, n)?);
    }
    let mut free: VecDeque<usize> = (0..CONNECTIONS).collect();
    let mut random = Random::new(seed);
    let begun = Instant::now();
    let mut due = begun;
    let mut latencies = Vec::new();
    let mut events =
        [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
            CONNECTIONS];
    loop {
        let now = Instant::now();
        let over = now > begun + WARM + time;
        if over && free.len() == CONNECTIONS {
            latencies.sort_by(f64::total_cmp);
            return Ok(latencies);
        }
        if now > begun + WARM + time + STUCK {
            bail!("requests are not answered");
        }
        while !over
            && due <= now
            && let Some(n) = free.pop_front()
        {
            let connection = &mut connections[n];
            connection.due = due;
            connection.stream.write_all(request.as_bytes())?;
            due += Duration::from_secs_f64(-random.fraction().ln() / rate);
        }
        let wait = match over || free.is_empty() {
            true => Duration::from_millis(100),
            false => due.saturating_duration_since(Instant::now()),
        };
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let ready = epoll::wait(&poll, events.as_mut_slice(), Some(&wait))?;
        for event in &events[..ready] {
            let n = event.data.u64() as usize;
            if answered(&mut connections[n])? {
                let due = connections[n].due;
                if due > begun + WARM {
                    latencies.push(due.elapsed().as_secs_f64() * 1e6);
                }
                free.push_back(n);
            }
        }
    }
}

fn open(poll: &OwnedFd, to: SocketAddr, n: usize) -> Result<Connection> {
    let stream = connect(to)?;
    stream.set_nonblocking(true)?;
    epoll::add(poll, &stream, epoll::EventData::new_u64(n as u64), epoll::EventFlags::IN)?;
    Ok(Connection { stream, due: Instant::now(), got: Vec::new(), whole: None })
}

/// Reads what has come; whether the answer is whole.
fn answered(connection: &mut Connection) -> Result<bool> {
    let mut part = [0; 16 << 10];
    match connection.stream.read(&mut part) {
        Ok(0) => bail!("a connection was closed"),
        Ok(n) => connection.got.extend_from_slice(&part[..n]),
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    if connection.whole.is_none() {
        connection.whole = end_of_head(&connection.got)
            .map(|end| Ok::<_, anyhow::Error>(end + length(&connection.got[..end])?))
            .transpose()?;
    }
    match connection.whole {
        Some(whole) if connection.got.len() >= whole => {
            connection.got.clear();
            connection.whole = None;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn length(head: &[u8]) -> Result<usize> {
    let head = std::str::from_utf8(head)?;
    let fields: BTreeMap<String, &str> = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect();
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{head}");
    }
    let length = fields.get("content-length").context("an answer without a length")?;
    Ok(length.parse()?)
}
