//! The counters as text for Prometheus (exposition format 0.0.4).
//!
//! Written here and not by a library: the counters lie in the route table, where requests find them
//! without a look-up, and are read from there once for each scrape.

use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use mini_core::control::ReleaseTraffic;
use mini_core::latency;

use crate::shared::Shared;
use crate::table::App;

pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];

/// Everything, as it is now. Takes milliseconds with thousands of apps.
pub(crate) fn text(shared: &Shared) -> String {
    let mut out = Text(String::with_capacity(16 << 10));
    of_the_proxy(shared, &mut out);
    let mut apps: Vec<Arc<App>> = shared.table.load_full().apps.values().cloned().collect();
    apps.sort_by(|a, b| a.route.app.as_str().cmp(b.route.app.as_str()));
    of_apps(&apps, &mut out);
    of_instances(&apps, &mut out);
    out.0
}

fn of_the_proxy(shared: &Shared, out: &mut Text) {
    let (seen, counters) = (&shared.seen, &shared.counters);
    out.family("mini_proxy_info", "gauge", "The proxy's version.");
    out.sample("mini_proxy_info", &[("version", &shared.version)], 1);
    let totals: [(&str, &str, u64); 5] = [
        (
            "mini_proxy_requests_total",
            "Requests, of apps and others.",
            counters.requests.load(SeqCst),
        ),
        (
            "mini_proxy_requests_cut_total",
            "Requests that outlasted a drain time.",
            counters.cut.load(SeqCst),
        ),
        (
            "mini_proxy_door_requests_total",
            "Requests to the platform's own API.",
            seen.sum(|w| &w.door),
        ),
        (
            "mini_proxy_unrouted_requests_total",
            "Requests that no app had: unknown names, bad requests.",
            seen.sum(|w| &w.nobody),
        ),
        (
            "mini_proxy_router_lines_lost_total",
            "Router lines that waited too long for the controller.",
            seen.backlog.lost(),
        ),
    ];
    for (name, help, n) in totals {
        out.family(name, "counter", help);
        out.sample(name, &[], n);
    }
    let tls = &shared.tls.counters;
    let name = "mini_proxy_tls_handshakes_total";
    out.family(name, "counter", "TLS handshakes; those refused were too many at once.");
    for (result, n) in [
        ("full", &tls.full),
        ("resumed", &tls.resumed),
        ("failed", &tls.failed),
        ("refused", &tls.refused),
    ] {
        out.sample(name, &[("result", result)], n.load(Relaxed));
    }
    let name = "mini_proxy_requests_by_version_total";
    out.family(name, "counter", "Requests that are over, by the client's version of HTTP.");
    for (index, version) in ["1.0", "1.1", "2"].into_iter().enumerate() {
        out.sample(name, &[("version", version)], seen.sum(|w| &w.versions[index]));
    }
    let status = shared.status();
    let gauges: [(&str, &str, u64); 4] = [
        ("mini_proxy_connections", "Connections of clients now.", status.connections),
        (
            "mini_proxy_requests_in_flight",
            "Requests in flight now, upgraded connections with them.",
            status.in_flight,
        ),
        ("mini_proxy_table_generation", "The generation of the route table.", status.generation),
        ("mini_proxy_apps", "Apps in the route table.", status.apps),
    ];
    for (name, help, n) in gauges {
        out.family(name, "gauge", help);
        out.sample(name, &[], n);
    }
}

fn of_apps(apps: &[Arc<App>], out: &mut Text) {
    let all: Vec<(&str, String, ReleaseTraffic)> = apps
        .iter()
        .flat_map(|app| {
            let name = app.route.app.as_str();
            app.lasting.seen.traffic().into_iter().map(move |traffic| {
                // An empty label is none.
                let release = traffic.release.map_or_else(String::new, |n| format!("v{n}"));
                (name, release, traffic)
            })
        })
        .collect();
    let name = "mini_requests_total";
    out.family(name, "counter", "Requests that are over, by class of status.");
    for (app, release, traffic) in &all {
        for (class, n) in CLASSES.iter().zip(traffic.statuses).filter(|(_, n)| *n > 0) {
            out.sample(name, &[("app", app), ("release", release), ("status", class)], n);
        }
    }
    let name = "mini_request_errors_total";
    out.family(name, "counter", "Requests that the router could not serve, by its code.");
    for (app, release, traffic) in &all {
        for (code, n) in &traffic.errors {
            out.sample(name, &[("app", app), ("release", release), ("code", code)], *n);
        }
    }
    type Of = fn(&ReleaseTraffic) -> u64;
    let counters: [(&str, &str, Of); 3] = [
        ("mini_request_bytes_total", "Bytes of requests' bodies.", |t| t.bytes_in),
        ("mini_response_bytes_total", "Bytes of answers' bodies.", |t| t.bytes_out),
        ("mini_requests_retried_total", "Requests sent twice, since a connection was dead.", |t| {
            t.retried
        }),
    ];
    for (name, help, of) in counters {
        out.family(name, "counter", help);
        for (app, release, traffic) in &all {
            out.sample(name, &[("app", app), ("release", release)], of(traffic));
        }
    }
    out.family(
        "mini_request_duration_seconds",
        "histogram",
        "From the request's head to the end of the answer.",
    );
    for (app, release, traffic) in &all {
        out.histogram(
            "mini_request_duration_seconds",
            &[("app", app), ("release", release)],
            traffic,
        );
    }
    let name = "mini_requests_held_total";
    out.family(name, "counter", "Requests that had to wait for an instance.");
    for app in apps {
        let held = app.lasting.seen.held();
        if held > 0 {
            out.sample(name, &[("app", app.route.app.as_str())], held);
        }
    }
    let name = "mini_requests_waiting";
    out.family(name, "gauge", "Requests that wait for an instance now.");
    for app in apps {
        let waiting = app.lasting.waiting.load(Relaxed);
        if waiting > 0 {
            out.sample(name, &[("app", app.route.app.as_str())], waiting);
        }
    }
}

fn of_instances(apps: &[Arc<App>], out: &mut Text) {
    let name = "mini_instance_requests_in_flight";
    out.family(name, "gauge", "Requests in flight now at one instance.");
    for target in apps.iter().flat_map(|app| &app.targets) {
        let release = format!("v{}", target.spec.release);
        let labels = [
            ("app", target.app.as_str()),
            ("release", &release),
            ("process", &target.spec.process),
            ("instance", target.spec.instance.as_str()),
        ];
        out.sample(name, &labels, target.requests_in_flight());
    }
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        self.labels(labels, None);
        let _ = writeln!(self.0, " {value}");
    }

    /// `le` is the last label of a histogram's bucket.
    fn labels(&mut self, labels: &[(&str, &str)], le: Option<&str>) {
        let all = labels.iter().copied().chain(le.map(|le| ("le", le)));
        for (n, (name, value)) in all.enumerate() {
            self.0.push(if n == 0 { '{' } else { ',' });
            self.0.push_str(name);
            self.0.push_str("=\"");
            for c in value.chars() {
                match c {
                    '"' => self.0.push_str("\\\""),
                    '\\' => self.0.push_str("\\\\"),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() || le.is_some() {
            self.0.push('}');
        }
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], traffic: &ReleaseTraffic) {
        for (first_not, ms) in latency::powers() {
            let n = traffic.latency.below(first_not);
            let _ = write!(self.0, "{name}_bucket");
            self.labels(labels, Some(&(ms / 1000.0).to_string()));
            let _ = writeln!(self.0, " {n}");
        }
        let total = traffic.latency.total();
        let _ = write!(self.0, "{name}_bucket");
        self.labels(labels, Some("+Inf"));
        let _ = writeln!(self.0, " {total}");
        self.sample(&format!("{name}_sum"), labels, traffic.took_us as f64 / 1e6);
        self.sample(&format!("{name}_count"), labels, total);
    }
}
