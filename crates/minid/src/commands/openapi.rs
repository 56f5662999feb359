//! `minid openapi`: the API's description, as it is checked in under `docs/`.

use std::process::ExitCode;

use crate::output::{self, Fault};

pub(crate) fn run() -> Result<ExitCode, Fault> {
    let document = mini_controller::openapi_document();
    let text = serde_json::to_string_pretty(&document)
        .map_err(|error| Fault::new(format!("the description cannot be written: {error}")))?;
    output::line(&text);
    Ok(ExitCode::SUCCESS)
}
