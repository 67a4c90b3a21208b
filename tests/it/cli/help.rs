//! Help texts are checked in beside this file and compared; `FREEZEFRAME_REGENERATE=1` rewrites them.

use std::path::PathBuf;

use super::Machine;

const COMMANDS: [&[&str]; 21] = [
    &[],
    &["batch"],
    &["batch", "submit"],
    &["batch", "quote"],
    &["batch", "retry"],
    &["batch", "watch"],
    &["batch", "show"],
    &["batch", "list"],
    &["batch", "results"],
    &["batch", "ledger"],
    &["wallet"],
    &["models"],
    &["completions"],
    &["operator"],
    &["operator", "add"],
    &["pause"],
    &["resume"],
    &["bulk"],
    &["bulk", "cancel"],
    &["bulk", "pause"],
    &["openapi"],
];

#[tokio::test]
async fn the_help_texts_are_what_was_checked_in_and_fit_80_columns() {
    // a key in the environment must not be repeated
    let machine = Machine::new("http://secret.example.com", "ff_live_secret");
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/cli/help");
    let regenerate = std::env::var_os("FREEZEFRAME_REGENERATE").is_some_and(|value| value == "1");
    for command in COMMANDS {
        let arguments: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
        let ran = machine.run(&arguments).await.ends_with(0);
        ran.fits_80_columns();
        assert!(!ran.out.contains("secret"), "{}", ran.out);
        let name = if command.is_empty() { "freezeframe".to_owned() } else { command.join("-") };
        let path = directory.join(format!("{name}.txt"));
        if regenerate {
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(&path, &ran.out).unwrap();
        }
        let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            checked_in == ran.out,
            "{} is not what `{}` says: run `make generate`\n{}",
            path.display(),
            arguments.join(" "),
            ran.out
        );
    }
}

#[tokio::test]
async fn every_shell_gets_its_completions() {
    let machine = Machine::new("", "");
    for (shell, part) in [("bash", "complete -F"), ("zsh", "#compdef freezeframe"), ("fish", "complete -c freezeframe")]
    {
        let ran = machine.run(&["completions", shell]).await.ends_with(0);
        ran.says(&[part, "submit", "webhook-url"]);
    }
}
