//! What becomes of one request, told once when it is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{StatusCode, Version};
use mini_core::route::{Host, read_host};

use super::exchange::{Fail, Tally};
use super::job::{About, Arrival, AskedFor, Job};
use crate::error_page::Code;
use crate::seen::{Finished, To};
use crate::shared::Shared;
use crate::table::TargetState;

pub(crate) struct Record {
    begun: Instant,
    /// The instance that it was sent to last.
    pub(crate) target: Option<Arc<TargetState>>,
    pub(crate) error: Option<Code>,
    pub(crate) status: u16,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// How long connections took.
    pub(crate) connect: Duration,
    pub(crate) retried: bool,
    pub(crate) version: Version,
}

impl Record {
    /// The head is there.
    pub(crate) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            target: None,
            error: None,
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            connect: Duration::ZERO,
            retried: false,
            version: Version::HTTP_11,
        }
    }

    /// What a try has done.
    pub(crate) fn add(&mut self, tally: &Tally) {
        self.status = tally.status.unwrap_or_default();
        self.bytes_in += tally.bytes_in;
        self.bytes_out += tally.bytes_out;
    }

    /// The router answers by itself, and nothing is wrong.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        (self.status, self.error) = (status.as_u16(), None);
    }

    /// The router answers by itself.
    pub(crate) fn refused(&mut self, code: Code) {
        (self.status, self.error) = (code.status().as_u16(), Some(code));
    }

    /// It ended without an answer, or within it.
    pub(crate) fn broke(&mut self, fail: Fail) {
        if fail == Fail::ClientGone {
            return self.refused(Code::ClientGone);
        }
        let code = fail.code();
        self.error = Some(code);
        if self.status == 0 {
            self.status = code.status().as_u16();
        }
    }

    /// A request that was not sent on, and may not even have been read.
    pub(crate) fn of_refused(&self, shared: &Shared, arrival: Arrival, about: &About) {
        let nothing = AskedFor { fwd: arrival.client.to_string(), ..AskedFor::default() };
        let asked = about.asked.as_deref().unwrap_or(&nothing);
        let AskedFor { method, path, host, fwd, https } = asked;
        let words: [&str; 5] = [method, path, host, &about.id, fwd];
        let arrival = Arrival { https: arrival.https || *https, ..arrival };
        match read_host(host, &shared.domains) {
            Ok(Host::Door) => self.finish(shared, arrival, To::Door, words),
            Ok(Host::Name(name)) => self.of_app(shared, arrival, &name, words),
            Err(_) => self.finish(shared, arrival, To::Nobody, words),
        }
    }

    pub(crate) fn of(&self, shared: &Shared, job: &Job) {
        let arrival = job.arrival;
        let name = match &job.host {
            Host::Door => return self.finish(shared, arrival, To::Door, [""; 5]),
            Host::Name(name) => name.as_str(),
        };
        let [method, path, fwd] = job.words();
        let words = [method, path, name, &job.about.id, fwd];
        match &self.target {
            Some(target) => self.finish(shared, arrival, To::Target(target), words),
            None => self.of_app(shared, arrival, name, words),
        }
    }

    /// No instance got it.
    fn of_app(&self, shared: &Shared, arrival: Arrival, name: &str, words: [&str; 5]) {
        match shared.table.load().find(name) {
            Some(app) => self.finish(shared, arrival, To::App(&app.lasting.seen), words),
            None => self.finish(shared, arrival, To::Nobody, words),
        }
    }

    fn finish(
        &self,
        shared: &Shared,
        arrival: Arrival,
        to: To<'_>,
        [method, path, host, request_id, fwd]: [&str; 5],
    ) {
        shared.seen.finished(&Finished {
            to,
            error: self.error,
            method,
            path: path.as_bytes(),
            host: host.as_bytes(),
            request_id: request_id.as_bytes(),
            fwd: fwd.as_bytes(),
            https: arrival.https,
            version: self.version,
            status: self.status,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            begun: self.begun,
            connect: self.connect,
            ended: Instant::now(),
            retried: self.retried,
        });
    }
}
