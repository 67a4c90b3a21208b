//! What files hold, and what they should not.

use serde_json::{Value, json};

use super::{Defaults, Faults, Format, Items, MAX_ITEMS, parse};

fn read(text: impl AsRef<[u8]>) -> Result<Items, Faults> {
    let mut items = parse("items", text.as_ref(), None)?;
    items.fill(&Defaults::default());
    items.check()?;
    Ok(items)
}

#[track_caller]
fn fault(text: impl AsRef<[u8]>) -> String {
    read(text).expect_err("a fault").to_string()
}

#[test]
fn jsonl_is_taken_as_it_stands_and_knows_its_lines() {
    let text = "\u{feff}{\"prompt\":\"a\",\"model\":\"m\"}\r\n\n  {\"prompt\":\"b\",\"model\":\"m\",\"new_field\":{\"x\":1}}\n";
    let items = read(text).unwrap();
    assert_eq!(items.items.iter().map(|item| item.line).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(
        items.to_json(),
        json!([{"prompt": "a", "model": "m"}, {"prompt": "b", "model": "m", "new_field": {"x": 1}}])
    );
}

#[test]
fn csv_may_be_quoted_marked_and_of_another_system() {
    let text = "\u{feff}Prompt, model ,seconds,size,custom_id,metadata.Campaign\r\n\
                \"A fox, \"\"red\"\"\r\nin two lines\",sora-2,8,1280x720,fox,spring\r\n\
                \r\n,,,,,\r\n\
                plain,sora-2,,,,\r\n";
    let items = read(text).unwrap();
    assert_eq!(items.items.iter().map(|item| item.line).collect::<Vec<_>>(), [2, 6]);
    assert_eq!(
        items.to_json(),
        json!([
            {"prompt": "A fox, \"red\"\r\nin two lines", "model": "sora-2", "seconds": 8, "size": "1280x720",
             "custom_id": "fox", "metadata": {"Campaign": "spring"}},
            {"prompt": "plain", "model": "sora-2"},
        ])
    );
    for separator in [";", "\t"] {
        let text = format!("prompt{separator}model\nA fox, red{separator}sora-2\n");
        assert_eq!(read(text).unwrap().to_json(), json!([{"prompt": "A fox, red", "model": "sora-2"}]));
    }
}

#[test]
fn a_fault_names_file_line_and_place() {
    let jsonl = "{\"prompt\":\"a\",\"model\":\"m\"}\n{\"prompt\":\"a\" \"model\":\"m\"}\n[1]\n7\n";
    let told = fault(jsonl);
    for part in [
        "3 things are wrong",
        "items:2:15: not valid JSON: expected `,` or `}`",
        "items:3: must be an object, not an array",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let typed = "{\"prompt\":7,\"model\":\"m\"}\n{\"model\":\"m\",\"prompt\":\" \"}\n{\"prompt\":\"a\"}\n\
                 {\"prompt\":\"a\",\"model\":\"m\",\"seconds\":\"8\",\"custom_id\":\"x\"}\n\
                 {\"prompt\":\"a\",\"model\":\"m\",\"custom_id\":\"x\",\"metadata\":[]}\n";
    let told = fault(typed);
    for part in [
        "items:1: `prompt` must be a text",
        "items:2: `prompt` is empty",
        "items:3: `model` is required; --model",
        "items:4: `seconds` must be a whole number",
        "items:5: `metadata` must be an object",
        "items:5: `custom_id` is that of line 4 too",
    ] {
        assert!(told.contains(part), "{told}");
    }
    assert!(fault("[\n {\"prompt\":\"a\"}\n]\n").starts_with("items:1:1: a JSON document over several lines"));
    assert_eq!(
        fault("\n \n"),
        "items:1: has no column `prompt`; the first line of a table names its columns, such as prompt,model,seconds"
    );
}

#[test]
fn a_fault_of_a_table_names_its_column() {
    let told = fault("prompt,model,seconds\na,m,eight\nb,m\nc,m,8,more\n");
    assert_eq!(
        told,
        "2 things are wrong, nothing was bought:\n  items:2: `seconds` must be a whole number, such as 8\n  \
         items:4: has 4 cells, the header names 3; a text with a comma must stand in quotes"
    );
    let told = fault("promt,model,model\na,m,m\n");
    for part in
        ["items:1: `promt` is no column of a batch", "items:1: `model` is there twice", "has no column `prompt`"]
    {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(fault("prompt,model\na,m\n\"b,m\nc,m\n"), "items:3: opens a quote that is never closed");
    assert!(read("prompt,model\na 5\" screen,m\n").is_ok());
}

#[test]
fn text_that_is_no_utf8_is_refused_at_its_place() {
    assert!(fault(b"prompt,model\nfox,m\nf\xe4x,m\n").starts_with("items:3:2: is not encoded as UTF-8 here"));
    assert!(fault(b"\xff\xfep\0r\0").contains("UTF-16"));
}

#[test]
fn more_than_a_batch_holds_is_refused_with_a_way_to_split_it() {
    let line = "{\"prompt\":\"a\",\"model\":\"m\"}\n";
    assert_eq!(read(line.repeat(MAX_ITEMS)).unwrap().items.len(), MAX_ITEMS);
    let told = fault(format!("\n{}", line.repeat(MAX_ITEMS + 17)));
    assert_eq!(
        told,
        "items: has 10,017 items, a batch holds 10,000; line 10002 is the first too many: split -l 10000 items part-"
    );
    let told = fault(format!("prompt,model\n{}", "a,m\n".repeat(MAX_ITEMS + 1)));
    assert!(told.contains("head -n 1 items; cat"), "{told}");
}

#[test]
fn defaults_fill_what_is_left_out_and_change_nothing_else() {
    let text = "prompt,seconds\na,4\nb,\n";
    let mut items = parse("items", text.as_bytes(), Some(Format::Csv)).unwrap();
    items.fill(&Defaults { model: Some("m".to_owned()), seconds: Some(8), size: None });
    items.check().unwrap();
    assert_eq!(
        items.to_json(),
        json!([{"prompt": "a", "model": "m", "seconds": 4}, {"prompt": "b", "model": "m", "seconds": 8}])
    );
}

#[test]
fn the_servers_pointers_become_places_of_the_file() {
    let items = read("{\"prompt\":\"a\",\"model\":\"m\"}\n\n{\"prompt\":\"a\",\"model\":\"m\"}\n").unwrap();
    let errors: Value = json!([
        {"pointer": "/items/1/model", "detail": "is not offered"},
        {"pointer": "/items/1/metadata/a~1b", "detail": "is long"},
        {"pointer": "/items/1", "detail": "is odd"},
        {"pointer": "/items/7/model", "detail": "is ours?"},
        {"pointer": "/webhook_url", "detail": "must be https"},
        {"detail": "is \u{1b}[31mred"},
    ]);
    let problem = json!({"type": "x", "title": "t", "detail": "d", "errors": errors});
    let told = items.explain(&serde_json::from_value(problem).unwrap()).to_string();
    for part in [
        "items:3: `model` is not offered",
        "items:3: `metadata.a/b` is long",
        "items:3: is odd",
        "items: `/items/7/model` is ours?",
        "items: `--webhook-url` must be https",
        "items: is  [31mred",
    ] {
        assert!(told.contains(part), "{told}");
    }
}
