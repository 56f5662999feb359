//! One-off commands: left alone while somebody wants them.

use super::*;
use crate::ports::OneOff;

fn one_off(id: &str, how: OneOff, state: InstanceState) -> Instance {
    let run = instance(id, "d1", "run", state);
    Instance { one_off: Some(how), port: None, ..run }
}

/// An app whose `web.1` serves, beside `others`.
fn world(others: Vec<Instance>) -> World {
    let mut instances = vec![instance("a", "d1", "web", UP)];
    instances.extend(others);
    World::new(Some(rollout("d1", &[("web", 1)])), None, instances).healthy(&["a"])
}

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

#[test]
fn a_one_off_is_left_alone_while_somebody_wants_it() {
    let attached = one_off("b", OneOff::Attached, UP);
    let mut world = world(vec![attached, one_off("c", OneOff::Detached, UP)]);
    world.notes.hold_begun(&id("b"));
    for desired in [Desired::Run, Desired::Stop] {
        world.intent.desired = desired;
        let plan = world.plan(2000);
        let of_one_offs = plan.actions.iter().filter(|a| {
            let subject = a.subject();
            subject == Subject::Instance(id("b")) || subject == Subject::Instance(id("c"))
        });
        assert_eq!(of_one_offs.count(), 0, "{desired:?}: {plan:?}");
    }
    world.intent.desired = Desired::Run;
    assert_eq!(roles(&world.plan(2000)), [("a".into(), Role::Serve)], "no route to a one-off");
}

#[test]
fn an_attached_one_that_nobody_holds_is_stopped_and_removed() {
    let mut attached = world(vec![one_off("b", OneOff::Attached, UP)]);
    // As after a restart of the controller: it knows of no session.
    assert_eq!(attached.plan(2000).actions, [stop("b")]);
    attached.notes.stop_begun(&id("b"));
    assert_eq!(attached.plan(2001).actions, [], "once is enough");
    attached.notes.stop_ended(&id("b"));
    for ended in [EXITED, InstanceState::Created, InstanceState::Dead] {
        attached.instances[1].state = ended;
        assert_eq!(attached.plan(9000).actions, [Action::Remove(id("b"))], "{ended:?}");
    }
}

#[test]
fn one_that_ended_goes_once_its_end_was_read() {
    let mut held = world(vec![one_off("b", OneOff::Attached, EXITED)]);
    held.notes.hold_begun(&id("b"));
    assert_eq!(held.plan(9000).actions, [], "its session still reads the exit code");
    held.notes.hold_ended(&id("b"));
    assert_eq!(held.plan(9001).actions, [Action::Remove(id("b"))]);
    let mut detached = world(vec![one_off("b", OneOff::Detached, EXITED)]);
    assert_eq!(detached.plan(9000).actions, [Action::Remove(id("b"))], "and is not restarted");
}

#[test]
fn one_that_is_being_made_is_not_taken_for_a_left_over() {
    let mut world = world(vec![one_off("b", OneOff::Detached, InstanceState::Created)]);
    world.notes.hold_begun(&id("b"));
    assert_eq!(world.plan(2000).actions, []);
    world.notes.hold_ended(&id("b"));
    assert_eq!(world.plan(2001).actions, [Action::Remove(id("b"))], "its start broke off");
}

#[test]
fn destroy_ends_every_one_off_and_waits_for_those_under_way() {
    let others = vec![one_off("b", OneOff::Attached, UP), one_off("c", OneOff::Detached, UP)];
    let mut world = world(others);
    world.instances.remove(0);
    world.notes.hold_begun(&id("b"));
    world.intent.desired = Desired::Destroy;
    assert_eq!(world.plan(2000).actions, [stop("b"), stop("c")]);
    world.instances.clear();
    assert_eq!(world.plan(3000).actions, [], "one may still be on its way");
    world.notes.hold_ended(&id("b"));
    assert_eq!(world.plan(3001).actions, [Action::Forget]);
}

#[test]
fn a_one_off_holds_no_slot_of_a_process_type_of_its_name() {
    let run = Instance { one_off: Some(OneOff::Detached), ..instance("b", "d1", "run", UP) };
    let live = rollout("d1", &[("run", 1)]);
    let mut world = World::new(Some(live), None, vec![run]);
    assert_eq!(world.plan(2000).actions, [start("d1", "run")]);
}

#[test]
fn while_the_engine_is_unknown_nothing_happens_to_a_one_off() {
    let world = world(Vec::new());
    let observed = Observed { instances: None, proxy: &world.proxy, notes: &world.notes };
    assert_eq!(plan(&world.intent, observed, Millis(2000)).actions, []);
}
