//! `GRAPH.md` says what the rules say. With `FREEZEFRAME_REGENERATE=1` this test writes the file instead of comparing it.

use std::path::Path;

#[test]
fn the_checked_in_graph_is_what_the_rules_render() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("GRAPH.md");
    let rendered =
        freezeframe_workflows::graph::render().unwrap_or_else(|flaw| panic!("the rules do not pass: {flaw}"));
    if std::env::var_os("FREEZEFRAME_REGENERATE").is_some_and(|value| value == "1") {
        std::fs::write(&path, &rendered).expect("GRAPH.md is writable");
        return;
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
    let differs = rendered.lines().zip(checked_in.lines()).position(|(new, old)| new != old);
    let line = differs.unwrap_or_else(|| rendered.lines().count().min(checked_in.lines().count())) + 1;
    assert!(
        rendered == checked_in,
        "GRAPH.md differs from the rules at line {line}; if the change of the rules is wanted, run \
         `FREEZEFRAME_REGENERATE=1 cargo test -p freezeframe-workflows --test graph` and check the file in"
    );
}
