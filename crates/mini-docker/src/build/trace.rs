//! BuildKit's own account of a build, told as `docker build --progress=plain` tells it.

use std::collections::{HashMap, VecDeque};

use bollard::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog, VertexStatus};
use mini_core::ports::Progress;

use crate::build::lines::LineBuffer;

/// What is known of the build's steps so far.
#[derive(Default)]
pub(crate) struct Trace {
    steps: HashMap<String, Step>,
    numbers: u32,
    failed: Option<Failed>,
}

/// The step that ended the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    /// `[2/3] RUN false`
    pub(crate) name: String,
    /// What BuildKit says of it.
    pub(crate) error: String,
}

#[derive(Default)]
struct Step {
    name: String,
    /// Given when it starts.
    number: Option<u32>,
    started_seconds: f64,
    ended: bool,
    /// A line of its output that has not ended yet.
    begun: LineBuffer,
    /// What was told of its parts.
    told: Vec<String>,
}

impl Trace {
    /// The step that failed, if one did.
    pub(crate) fn failed(&self) -> Option<&Failed> {
        self.failed.as_ref()
    }

    /// Takes one message; what there is to tell goes to the end of `out`.
    pub(crate) fn read(&mut self, status: StatusResponse, out: &mut VecDeque<Progress>) {
        // Output comes before the news that its step ended, and after the news that it began.
        for vertex in &status.vertexes {
            self.begin(vertex, out);
        }
        for part in status.statuses {
            self.part(part, out);
        }
        for log in status.logs {
            self.log(log, out);
        }
        for vertex in status.vertexes {
            self.end(vertex, out);
        }
    }

    fn begin(&mut self, vertex: &Vertex, out: &mut VecDeque<Progress>) {
        let step = self.steps.entry(vertex.digest.clone()).or_default();
        if step.name.is_empty() {
            step.name = crate::error::one_line(&vertex.name);
        }
        if step.number.is_some() || !(vertex.started.is_some() || vertex.cached) {
            return;
        }
        self.numbers += 1;
        step.number = Some(self.numbers);
        step.started_seconds = vertex.started.as_ref().map_or(0.0, |t| seconds(t.seconds, t.nanos));
        out.push_back(Progress::Line(format!("#{} {}", self.numbers, step.name)));
    }

    fn part(&mut self, part: VertexStatus, out: &mut VecDeque<Progress>) {
        let Some(step) = self.steps.get_mut(&part.vertex) else { return };
        let Some(number) = step.number else { return };
        // Whoever knows the name can build from the image.
        if part.id.starts_with("naming to ") {
            return;
        }
        let (done, total) = (part.current.max(0) as u64, part.total.max(0) as u64);
        if total > 0 && part.completed.is_none() {
            out.push_back(Progress::Bytes { part: format!("#{number} {}", part.id), done, total });
        } else if part.completed.is_some() && !step.told.contains(&part.id) {
            step.told.push(part.id.clone());
            let size = if done > 0 { format!(": {}", size(done)) } else { String::new() };
            out.push_back(Progress::Line(format!("#{number} {}{size} done", part.id)));
        }
    }

    fn log(&mut self, log: VertexLog, out: &mut VecDeque<Progress>) {
        let Some(step) = self.steps.get_mut(&log.vertex) else { return };
        let Some(number) = step.number else { return };
        let at = log.timestamp.as_ref().map_or(0.0, |t| seconds(t.seconds, t.nanos));
        let at = (at - step.started_seconds).max(0.0);
        step.begun.feed(&String::from_utf8_lossy(&log.msg), |line| {
            out.push_back(Progress::Line(format!("#{number} {at:.3} {line}")));
        });
    }

    fn end(&mut self, vertex: Vertex, out: &mut VecDeque<Progress>) {
        let Some(step) = self.steps.get_mut(&vertex.digest) else { return };
        let Some(number) = step.number.filter(|_| !step.ended) else { return };
        let mut say = |text: String| out.push_back(Progress::Line(format!("#{number} {text}")));
        if !vertex.error.is_empty() {
            step.ended = true;
            flush(step, &mut say);
            // What other steps were doing when one failed.
            if vertex.error.contains("context canceled") {
                say("CANCELED".to_owned());
                return;
            }
            say(format!("ERROR: {}", crate::error::one_line(&vertex.error)));
            self.failed = Some(Failed { name: step.name.clone(), error: vertex.error });
        } else if vertex.cached {
            step.ended = true;
            say("CACHED".to_owned());
        } else if let Some(completed) = vertex.completed {
            step.ended = true;
            flush(step, &mut say);
            let took =
                (seconds(completed.seconds, completed.nanos) - step.started_seconds).max(0.0);
            say(format!("DONE {took:.1}s"));
        }
    }
}

/// Output that ended without a line end.
fn flush(step: &mut Step, say: &mut impl FnMut(String)) {
    if let Some(rest) = step.begun.rest() {
        say(rest);
    }
}

fn seconds(seconds: i64, nanos: i32) -> f64 {
    seconds as f64 + f64::from(nanos) / 1e9
}

/// Bytes as Docker's client writes them.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}B") } else { format!("{value:.2}{}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time as the protocol writes it; its type is not ours to name.
    macro_rules! at {
        ($vertex:expr, $field:ident, $seconds:expr) => {
            $vertex.$field.get_or_insert_default().seconds = $seconds
        };
    }

    fn vertex(digest: &str, name: &str, started: bool, completed: bool) -> Vertex {
        let mut vertex = Vertex { digest: digest.into(), name: name.into(), ..Default::default() };
        if started {
            at!(vertex, started, 10);
        }
        if completed {
            at!(vertex, completed, 12);
        }
        vertex
    }

    fn log(digest: &str, text: &str) -> VertexLog {
        let mut log =
            VertexLog { vertex: digest.into(), msg: text.into(), stream: 1, ..Default::default() };
        at!(log, timestamp, 11);
        log
    }

    fn lines(trace: &mut Trace, vertexes: Vec<Vertex>, logs: Vec<VertexLog>) -> Vec<String> {
        let mut out = VecDeque::new();
        trace.read(StatusResponse { vertexes, logs, ..Default::default() }, &mut out);
        let line = |progress| match progress {
            Progress::Line(line) => line,
            other => panic!("not a line: {other:?}"),
        };
        out.into_iter().map(line).collect()
    }

    #[test]
    fn a_step_is_told_when_it_starts_and_its_output_as_it_comes() {
        let mut trace = Trace::default();
        let waiting = vec![vertex("a", "[1/2] FROM x", false, false)];
        assert!(lines(&mut trace, waiting, vec![]).is_empty());
        let begun = vec![vertex("b", "[2/2] RUN make", true, false)];
        assert_eq!(
            lines(&mut trace, begun, vec![log("b", "one\ntw")]),
            ["#1 [2/2] RUN make", "#1 1.000 one"]
        );
        let done = vec![vertex("b", "[2/2] RUN make", true, true)];
        assert_eq!(
            lines(&mut trace, done.clone(), vec![log("b", "o\n5%\r10%")]),
            ["#1 1.000 two", "#1 10%", "#1 DONE 2.0s"]
        );
        assert!(lines(&mut trace, done, vec![]).is_empty(), "told twice");
    }

    #[test]
    fn a_step_from_the_cache_says_so() {
        let cached = Vertex { cached: true, ..vertex("a", "[1/2] FROM x", true, true) };
        assert_eq!(
            lines(&mut Trace::default(), vec![cached], vec![]),
            ["#1 [1/2] FROM x", "#1 CACHED"]
        );
    }

    #[test]
    fn the_step_that_failed_is_kept_and_the_ones_it_took_along_are_not() {
        let mut trace = Trace::default();
        let failed =
            Vertex { error: "exit code: 1".into(), ..vertex("a", "[1/2] RUN a", true, true) };
        let taken =
            Vertex { error: "context canceled".into(), ..vertex("b", "[1/2] RUN b", true, true) };
        let told = lines(&mut trace, vec![failed, taken], vec![]);
        assert_eq!(told[2..], ["#1 ERROR: exit code: 1", "#2 CANCELED"]);
        assert_eq!(trace.failed().unwrap().name, "[1/2] RUN a");
    }
}
