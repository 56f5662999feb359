//! The examples that need a base image, built and fetched. `tests/images/make` makes the images.

use crate::platform::{Platform, deploy, project};

#[test]
fn the_node_and_python_examples_are_built_and_answer() {
    let platform = Platform::start_with(&["--instance-memory-mb", "512"], &[]);
    for example in ["node", "python"] {
        let said = platform.ok(&deploy(&project().join("examples").join(example), example));
        assert!(said.err.contains("FROM"), "the engine's output is shown: {said:?}");
        let answer = platform.get(example, "/");
        assert_eq!(answer.status, 200, "{example}: {}", answer.text());
        assert_eq!(platform.get(example, "/no-such-page").status, 404, "{example}");
    }
}
