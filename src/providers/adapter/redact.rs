//! Makes a provider's words fit for a customer's eyes and for the database.
//!
//! Always holds for what comes out: at most [`MAX_CHARS`] characters on one line; no key, no raw id of the provider, no
//! URL, no HTML, no control or direction-changing character, and none of the texts that the caller wants hidden.

use super::sieve::inline_number;

/// The longest message that is kept, in characters.
pub(super) const MAX_CHARS: usize = 300;

const REMOVED: &str = "[removed]";

/// How keys and ids of providers begin.
const PREFIXES: [&str; 13] =
    ["sk-", "pk-", "rk-", "key-", "key_", "video_", "req_", "org-", "proj_", "file-", "task_", "cgt-", "AIza"];

/// `message` without anything that should not be seen; `hidden` are texts to take out literally (a key, a prompt).
pub(super) fn fit_for_customers(message: &str, hidden: &[&str]) -> String {
    // a text that was too long to be kept says nothing
    if inline_number(message).is_some() {
        return String::new();
    }
    // Bounded first: what follows looks at every character several times.
    let mut text: String = message.chars().take(4 * MAX_CHARS).collect();
    for secret in hidden.iter().filter(|secret| secret.chars().count() >= 4) {
        text = text.replace(secret, REMOVED);
        // A long prompt may be cut off by the bound above, or by whoever quoted it.
        if let Some(start) = secret.char_indices().nth(40).and_then(|(end, _)| text.find(&secret[..end])) {
            text.replace_range(start.., REMOVED);
        }
    }
    let line = cleaned(&text);
    match line.char_indices().nth(MAX_CHARS) {
        None => line,
        Some(_) => line.chars().take(MAX_CHARS - 1).chain(['…']).collect(),
    }
}

/// A message that is fit to be seen, without the prompt, which the adapter did not know that made it so.
pub(in crate::providers) fn without_prompt(message: &str, prompt: &str) -> String {
    let beginning: String = prompt.chars().take(4 * MAX_CHARS).collect();
    // as it came out where it was part of a message
    let prompt = cleaned(&beginning);
    if prompt.chars().count() < 4 {
        return message.to_owned();
    }
    let mut text = message.replace(&prompt, REMOVED);
    if let Some(start) = prompt.char_indices().nth(40).and_then(|(end, _)| text.find(&prompt[..end])) {
        text.replace_range(start.., REMOVED);
    }
    text
}

/// One line without tags, ids and whatever cannot be seen.
fn cleaned(text: &str) -> String {
    let visible = without_tags(text);
    let visible = visible.chars().map(|c| if is_invisible(c) { ' ' } else { c });
    let words: String = visible.collect();
    let words: Vec<String> = words.split_whitespace().map(without_ids).collect();
    words.join(" ")
}

fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Whoever shows a message may show it on a web page.
fn without_tags(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        let (before, from) = rest.split_at(start);
        clean.push_str(before);
        let begins = from[1..].starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?'));
        // a tag that is not closed takes the rest with it, as a browser would
        let end = if begins { from.find('>').map_or(from.len(), |end| end + 1) } else { 1 };
        clean.push_str(if begins { " " } else { "<" });
        rest = &from[end..];
    }
    clean.push_str(rest);
    clean
}

fn without_ids(word: &str) -> String {
    if word.contains("://") || word.starts_with("www.") {
        return REMOVED.to_owned();
    }
    let mut clean = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(start) = rest.find(is_id_char) {
        let end = rest[start..].find(|c| !is_id_char(c)).map_or(rest.len(), |length| start + length);
        clean.push_str(&rest[..start]);
        clean.push_str(if is_opaque(&rest[start..end]) { REMOVED } else { &rest[start..end] });
        rest = &rest[end..];
    }
    clean.push_str(rest);
    clean
}

fn is_id_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '*')
}

/// Looks like a key or an id rather than like a word or a model's name.
fn is_opaque(run: &str) -> bool {
    let begins = PREFIXES.iter().any(|prefix| run.len() > prefix.len() && run.starts_with(prefix));
    let mixed = |part: &str| {
        part.len() >= 16 && part.bytes().any(|b| b.is_ascii_digit()) && part.bytes().any(|b| b.is_ascii_alphabetic())
    };
    let hex = run.bytes().filter(u8::is_ascii_hexdigit).count();
    let all_hex = run.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    begins || run.split(['-', '_']).any(mixed) || (all_hex && hex >= 24)
}

#[cfg(test)]
mod tests {
    use super::{MAX_CHARS, fit_for_customers, without_prompt};

    #[test]
    fn keys_ids_and_urls_are_taken_out_and_words_stay() {
        for (message, fit) in [
            ("Invalid size for sora-2-pro-2025-10-06.", "Invalid size for sora-2-pro-2025-10-06."),
            ("Incorrect key: sk-abc***xyz.", "Incorrect key: [removed]."),
            ("id=video_68d7512d, retry", "id=[removed], retry"),
            ("job 550e8400-e29b-41d4-a716-446655440000 broke", "job [removed] broke"),
            ("token a8F3kz09QwErTy1234 refused", "token [removed] refused"),
            ("see https://internal.host/x?key=1 now", "see [removed] now"),
            ("two\nlines\u{202e}\tand\0more", "two lines and more"),
            ("a <b>bold</b> word<script>alert('x')</script>, 1 < 2", "a bold word alert('x') , 1 < 2"),
            ("never closed <img src=x onerror=y", "never closed"),
            ("\u{1b}[31mred\u{9b}2J", "[31mred 2J"),
            ("\0inline 0", ""),
            ("the word task_ alone, a-b-c", "the word task_ alone, a-b-c"),
            ("", ""),
        ] {
            assert_eq!(fit_for_customers(message, &[]), fit);
        }
    }

    #[test]
    fn what_the_caller_hides_is_hidden_even_when_it_is_cut_off() {
        assert_eq!(fit_for_customers("key hunter2 is bad", &["hunter2"]), "key [removed] is bad");
        let prompt = "a very long prompt about a secret product ".repeat(100);
        let shown = fit_for_customers(&format!("refused: {prompt}"), &[&prompt]);
        assert_eq!(shown, "refused: [removed]");
    }

    #[test]
    fn a_prompt_is_taken_out_of_what_was_made_fit_without_knowing_it() {
        let prompt = "A\tsecret <b>plan</b> of video_68d7512d\nfor 1 < 2 people who may not be quoted anywhere";
        for (told, shown) in [
            (format!("blocked: {prompt}"), "blocked: [removed]"),
            (format!("prompt \"{prompt}\" is bad"), "prompt \"[removed]\" is bad"),
            (format!("{} {prompt}", "and so on".repeat(27)), "[removed]"),
        ] {
            let message = without_prompt(&fit_for_customers(&told, &[]), prompt);
            assert!(message.ends_with(shown) && !message.contains("secret"), "{message}");
        }
        assert_eq!(without_prompt("a cat is a cat", "cat"), "a cat is a cat");
    }

    #[test]
    fn a_long_message_is_cut() {
        let shown = fit_for_customers(&"ü ".repeat(5000), &[]);
        assert_eq!(shown.chars().count(), MAX_CHARS);
        assert!(shown.ends_with('…'));
    }
}
