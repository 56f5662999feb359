//! Which operation passes which point. A test keeps the list whole.

/// What a user does, or what befalls an app, while the controller dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// A deploy that makes its app.
    FirstDeploy,
    /// A source that the server has not seen.
    Deploy,
    /// A source that was built for an earlier release.
    SameSource,
    /// An app that exits as soon as it starts.
    BadDeploy,
    /// A deploy whose app never listens is cancelled.
    Cancel,
    Rollback,
    SetEnv,
    StageEnv,
    Restart,
    ScaleUp,
    ScaleDown,
    /// An instance stops by itself.
    InstanceDies,
    /// One instance is replaced because the user says so.
    ReplaceOne,
    /// A deploy with a command that runs before the release goes live.
    ReleaseCommand,
    /// The app gets a volume.
    AddVolume,
    /// A deploy of an app with a volume: the old release stops before the new one starts.
    Recreate,
    /// The app gets a domain, which makes no release.
    AddDomain,
    Stop,
    Destroy,
    DestroyWithVolumes,
    /// The controller dies for another reason, and again while it starts.
    ControllerStarts,
}

use Operation::*;

pub(super) const CASES: &[(&str, Operation)] = &[
    // An upload, and what is asked for.
    ("source.written", Deploy),
    ("source.taken", Deploy),
    ("source.stored", Deploy),
    ("apps.created", FirstDeploy),
    ("queue.stored", Deploy),
    ("queue.stored", Rollback),
    ("queue.stored", SetEnv),
    ("queue.stored", Restart),
    // A build.
    ("queue.taken", Deploy),
    ("queue.taken", Rollback),
    ("build.looked", Deploy),
    ("build.status", Deploy),
    ("build.output", Deploy),
    ("build.image", Deploy),
    ("build.done", Deploy),
    ("build.again", SameSource),
    // The making of a release.
    ("release.begun", Deploy),
    ("release.begun", SetEnv),
    ("release.made", Deploy),
    ("release.made", Rollback),
    ("release.again", Restart),
    // A rollout.
    ("start.begun", FirstDeploy),
    ("start.network", FirstDeploy),
    ("start.address", Deploy),
    ("start.address", ScaleUp),
    ("engine.created", Deploy),
    ("engine.created", Rollback),
    ("engine.created", ScaleUp),
    ("engine.started", Deploy),
    ("engine.started", ScaleUp),
    ("start.answered", Deploy),
    ("commit.begun", Deploy),
    ("commit.begun", SetEnv),
    ("commit.done", Deploy),
    ("commit.done", Rollback),
    ("announce.begun", Deploy),
    ("announce.done", Deploy),
    ("fail.begun", BadDeploy),
    ("fail.done", BadDeploy),
    ("cancel.stored", Cancel),
    // A rollout with a command of its own, and those of an app that cannot run twice.
    ("start.answered", ReleaseCommand),
    ("prepared.begun", ReleaseCommand),
    ("prepared.done", ReleaseCommand),
    ("queue.stored", AddVolume),
    ("start.volumes", AddVolume),
    ("commit.done", AddVolume),
    ("release.made", Recreate),
    ("stop.begun", Recreate),
    ("stop.answered", Recreate),
    ("engine.created", Recreate),
    ("commit.begun", Recreate),
    // What was there before leaves.
    ("stop.begun", Deploy),
    ("stop.answered", Rollback),
    ("remove.begun", Deploy),
    ("remove.answered", SetEnv),
    ("stop.begun", ScaleDown),
    ("remove.answered", ScaleDown),
    // Other changes.
    ("scale.stored", ScaleUp),
    ("scale.stored", ScaleDown),
    ("env.staged", StageEnv),
    ("route.stored", AddDomain),
    ("replace.stored", ReplaceOne),
    ("start.answered", ReplaceOne),
    ("stop.answered", ReplaceOne),
    ("start_again.begun", InstanceDies),
    ("start_again.answered", InstanceDies),
    ("apps.desired", Stop),
    ("stop.answered", Stop),
    // The end of an app.
    ("apps.desired", Destroy),
    ("stop.begun", Destroy),
    ("stop.answered", Destroy),
    ("remove.begun", Destroy),
    ("remove.answered", Destroy),
    ("forget.begun", Destroy),
    ("forget.network", Destroy),
    ("forget.logs", Destroy),
    ("forget.done", Destroy),
    ("collect.begun", Destroy),
    ("collect.image", Destroy),
    ("collect.volume", DestroyWithVolumes),
    // The start of the controller itself.
    ("run.opened", ControllerStarts),
    ("run.table", ControllerStarts),
];
