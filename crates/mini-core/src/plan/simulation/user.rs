//! What the user and fate do.

use super::World;
use super::event::Event;
use super::store::{Command, Kind, Nature, worker};
use crate::name::ProcessType;
use crate::plan::Desired;
use crate::ports::InstanceState;

impl World {
    pub(super) fn user(&mut self) {
        if self.user_left == 0 {
            return;
        }
        self.user_left -= 1;
        let pause = self.rng.delay(8_000, 20_000) + 20;
        self.after(pause, Event::User);
        // The API is the controller's.
        if self.controller.is_none() {
            return;
        }
        let what = self.rng.below(100);
        let done = match (self.store.app.is_some(), what) {
            (false, _) => {
                let containers = &self.engine.containers;
                let in_use = |n: u32| {
                    containers
                        .iter()
                        .any(|c| c.seen.address.is_some_and(|a| a.octets()[2] == n as u8))
                };
                let made = self.store.create(in_use);
                self.start_driver();
                made && self.deploy()
            }
            (_, 0..42) => self.deploy(),
            (_, 42..52) => self.enqueue(Kind::Again),
            (_, 52..57) => {
                let made = self.store.app.as_ref().map_or(0, |a| a.releases.len() as u64);
                made > 0 && {
                    let to = self.rng.between(1, made) as u32;
                    self.enqueue(Kind::Rollback(to))
                }
            }
            (_, 57..62) => self.want_replaced(),
            (_, 62..75) => {
                let web = self.rng.percent(70);
                let process = if web { ProcessType::web() } else { worker() };
                let count = self.rng.below(4) as u32;
                if web && count == 0 && self.rng.percent(50) {
                    // Back soon, maybe before all is gone.
                    let pause = self.rng.between(20, 3_000);
                    self.after(pause, Event::ScaleUp);
                }
                self.scale(process, count)
            }
            (_, 75..83) => self.end(Desired::Stop),
            (_, 83..93) => {
                let unfinished = self.store.app.as_ref().and_then(|a| {
                    a.deployments.iter().rev().find(|d| !d.finished).map(|d| d.id.clone())
                });
                unfinished.is_some_and(|id| {
                    self.log(|| format!("USER cancels {id}"));
                    let done = self.store.cancel(&id);
                    self.wake();
                    self.queue();
                    done
                })
            }
            _ => self.end(Desired::Destroy),
        };
        self.counts.user += u64::from(done);
    }

    fn deploy(&mut self) -> bool {
        let nature = match self.rng.below(20) {
            0 => Nature::Deaf,
            1 => Nature::Slow,
            2 | 3 => Nature::Exits,
            4 => Nature::Refused,
            5 | 6 => Nature::Flaky,
            _ => Nature::Good,
        };
        let workers = self.rng.below(3) as u32;
        let command = match self.rng.below(20) {
            0 => Command::Hangs,
            1 => Command::Fails,
            2..6 => Command::Works,
            _ => Command::None,
        };
        let alone = self.rng.percent(15);
        self.enqueue(Kind::Deploy { nature, workers, command, alone })
    }

    fn want_replaced(&mut self) -> bool {
        let Some(app) = self.store.app.as_mut() else { return false };
        let live = app.live.clone();
        let running =
            self.engine.containers.iter().filter(|c| Some(&c.seen.rollout) == live.as_ref());
        let running: Vec<_> = running
            .filter_map(|c| match c.seen.state {
                InstanceState::Running { since } => Some((c.seen.id.clone(), since)),
                _ => None,
            })
            .collect();
        if running.is_empty() {
            return false;
        }
        let (id, since) = running[self.rng.below(running.len() as u64) as usize].clone();
        app.replace.insert(id.clone(), since);
        self.log(|| format!("USER wants {id} replaced"));
        self.wake();
        true
    }

    fn enqueue(&mut self, kind: Kind) -> bool {
        self.log(|| format!("USER asks for {kind:?}"));
        let done = self.store.enqueue(kind);
        self.queue();
        done
    }

    pub(super) fn scale(&mut self, process: ProcessType, count: u32) -> bool {
        if self.controller.is_none() {
            return false;
        }
        self.log(|| format!("USER scales {process} to {count}"));
        let done = self.store.scale(process, count);
        self.wake();
        done
    }

    fn end(&mut self, desired: Desired) -> bool {
        self.log(|| format!("USER wants {desired:?}"));
        let done = self.store.end(desired);
        if done {
            self.checks.user_ended(self.now);
        }
        self.wake();
        self.queue();
        done
    }

    /// Something goes wrong.
    pub(super) fn fault(&mut self) {
        if !self.faults {
            return;
        }
        let pause = self.rng.between(100, self.fault_every);
        self.after(pause, Event::Fault);
        self.counts.faults += 1;
        match self.rng.below(100) {
            0..35 => self.kill_controller(),
            35..50 => self.hang_up(),
            50..65 => self.kill_proxy(),
            65..78 => self.engine_away(),
            what => {
                let running: Vec<_> = self
                    .engine
                    .containers
                    .iter()
                    .filter_map(|c| match c.seen.state {
                        InstanceState::Running { since } => Some((c.seen.id.clone(), since)),
                        _ => None,
                    })
                    .collect();
                if !running.is_empty() {
                    let (id, since) =
                        running[self.rng.below(running.len() as u64) as usize].clone();
                    if what < 88 {
                        return self.sicken(&id, since);
                    }
                    self.log(|| format!("FAULT {id} crashes"));
                    self.after(0, Event::Exit { id, since, ours: false });
                }
            }
        }
    }
}
