//! `mini diff`: what differs between two releases.

use std::collections::{BTreeMap, BTreeSet};

use mini_api::ReleaseInfo;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;

/// Show what differs between two releases: image, processes, limits, rules, config vars
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini diff v11 v12\n  mini diff v3 v12 --json")]
pub(crate) struct Args {
    /// The older one, as `mini releases` names it
    #[arg(value_name = "FROM")]
    from: String,
    /// The newer one
    #[arg(value_name = "TO")]
    to: String,
}

/// One difference: `+` new, `-` gone, `~` another value.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Difference {
    sign: char,
    what: String,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let failed = |e| Failure::from(e).about(&app);
    let from = client.release(&app, &args.from).await.map_err(failed)?;
    let to = client.release(&app, &args.to).await.map_err(failed)?;
    let found = differences(&from, &to);
    if context.out.json {
        return context.out.document(&serde_json::json!({ "differences": found }));
    }
    if found.is_empty() {
        let (from, to) = (&from.release.name, &to.release.name);
        context.out.say(&format!("{from} and {to} run the same with the same config vars."));
    }
    for Difference { sign, what } in found {
        context.out.data(&format!("{sign} {what}"))?;
    }
    Ok(())
}

fn differences(from: &ReleaseInfo, to: &ReleaseInfo) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut changed = |what: &str, from: &str, to: &str| {
        if from != to {
            found.push(Difference { sign: '~', what: format!("{what}: {from} -> {to}") });
        }
    };
    let text = |o: &Option<String>| o.clone().unwrap_or_else(|| "none".into());
    let short = |o: &Option<String>| text(o).chars().take(12).collect::<String>();
    if from.image_id != to.image_id {
        changed("image", &from.release.image, &to.release.image);
    }
    changed("source", &short(&from.source), &short(&to.source));
    changed("port", &from.port.to_string(), &to.port.to_string());
    changed("health path", &text(&from.health_path), &text(&to.health_path));
    changed("strategy", &strategy(from), &strategy(to));
    let words = |r: &ReleaseInfo| text(&r.release_command.as_ref().map(|words| words.join(" ")));
    changed("release command", &words(from), &words(to));
    found.extend(of_maps("process", &from.processes, &to.processes));
    found.extend(of_maps("limits of", &from.limits, &to.limits));
    found.extend(of_maps("volume", &from.volumes, &to.volumes));
    found.extend(of_maps("http", &from.http, &to.http));
    found.extend(of_maps("config", &from.env, &to.env));
    found
}

fn strategy(release: &ReleaseInfo) -> String {
    super::word(&release.strategy)
}

fn of_maps<V: PartialEq>(
    what: &str,
    from: &BTreeMap<String, V>,
    to: &BTreeMap<String, V>,
) -> Vec<Difference> {
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let sign = |name: &String| match (from.get(name), to.get(name)) {
        (None, Some(_)) => Some('+'),
        (Some(_), None) => Some('-'),
        (a, b) => (a != b).then_some('~'),
    };
    let one =
        |name: &&String| Some(Difference { sign: sign(name)?, what: format!("{what} {name}") });
    names.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_compared_by_name_and_value() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
        };
        let found = of_maps(
            "config",
            &map(&[("A", "1"), ("B", "2"), ("C", "3")]),
            &map(&[("A", "1"), ("B", "9"), ("D", "4")]),
        );
        let shown: Vec<String> = found.iter().map(|d| format!("{} {}", d.sign, d.what)).collect();
        assert_eq!(shown, ["~ config B", "- config C", "+ config D"]);
    }
}
