//! The controller.
mod clock;
mod logs;
mod sources;
mod store;
mod tokens;
mod vault;
