//! The classic builder's output: text in pieces, cut into lines.

use std::collections::VecDeque;

use mini_core::ports::Progress;

use crate::build::lines::LineBuffer;

#[derive(Default)]
pub(crate) struct Steps {
    begun: LineBuffer,
    last: Option<String>,
}

impl Steps {
    /// The instruction that was at work last: `RUN false`.
    pub(crate) fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// Takes a piece of text; its whole lines go to the end of `out`.
    pub(crate) fn read(&mut self, text: &str, out: &mut VecDeque<Progress>) {
        let last = &mut self.last;
        self.begun.feed(text, |line| {
            // `Step 2/3 : RUN false`
            if let Some((_, step)) =
                line.strip_prefix("Step ").and_then(|step| step.split_once(" : "))
            {
                *last = Some(step.to_owned());
            }
            // Whoever knows the name can build from the image.
            if !line.is_empty() && !line.starts_with("Successfully tagged ") {
                out.push_back(Progress::Line(line.to_owned()));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_lines_and_the_last_step_is_known() {
        let (mut steps, mut out) = (Steps::default(), VecDeque::new());
        for piece in ["Step 1/2 : FROM scratch\n", " ---> \n", "Step 2/2 : RUN", " false\n", "x"] {
            steps.read(piece, &mut out);
        }
        assert_eq!(steps.last(), Some("RUN false"));
        assert_eq!(out.len(), 3);
    }
}
