//! How the models behind a fal account want length and size to be said.
//!
//! Every model on fal has a schema of its own: one wants `duration` as `"8s"`, the next as `"8"` or 8, a third wants pixels.
//! So the settings carry a pattern of the input for each model:
//!
//! ```toml
//! inputs = { "fal-ai/veo3.1" = { duration = "{seconds}s", aspect_ratio = "{aspect_ratio}", resolution = "{resolution}" } }
//! ```
//!
//! A text may have `{seconds}`, `{width}`, `{height}`, `{size}` (1280x720), `{aspect_ratio}` (16:9) and `{resolution}` (720p)
//! in it; a text that is nothing but `{seconds:number}` (or width, or height) becomes a number. A field with `{image}` in it
//! gets the reference image as a data URI, and is left out where there is none. Everything else is sent as it stands. Many
//! models have a second id for orders with an image: `image_models = { "owner/app" = "owner/app/image-to-video" }`, whose
//! pattern then counts. A name counts for all models whose id begins with it, whole segments at a time; the longest counts.
//! Always holds: a pattern says length and size, because what a provider makes unasked costs money too; it does not say
//! the prompt, which is the customer's.

use std::collections::BTreeMap;

use serde_json::Value;
use toml::Value as Toml;

use super::reader::Section;

/// What a fal account has to know about its models.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FalConfig {
    inputs: BTreeMap<String, InputPattern>,
    /// By the id for orders without an image.
    image_models: BTreeMap<String, String>,
}

/// Ids that begin with one of these have their owner behind it.
const KINDS: [&str; 2] = ["workflows", "comfy"];

impl FalConfig {
    /// The app of a model, as the segments of its id: `owner/app`, or `kind/owner/app`. The queue knows requests by it alone,
    /// whatever path of the app they were ordered under.
    pub fn app(model: &str) -> impl Iterator<Item = &str> {
        let has_kind = model.split_once('/').is_some_and(|(first, _)| KINDS.contains(&first));
        model.split('/').take(if has_kind { 3 } else { 2 })
    }

    /// The id under which orders of a model are placed that have an image.
    pub fn image_model<'a>(&'a self, model: &'a str) -> &'a str {
        self.image_models.get(model).map_or(model, String::as_str)
    }

    /// Whether orders of this model have a place for an image.
    pub fn takes_image(&self, model: &str) -> bool {
        self.input(self.image_model(model)).is_some_and(|input| input.says(Quantity::Image))
    }

    /// With other ids for orders with an image.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn with_image_models(self, image_models: &toml::Table) -> Result<FalConfig, String> {
        let read = |(model, other): (&String, &Toml)| match other
            .as_str()
            .filter(|other| is_model(other) && is_model(model))
        {
            Some(other) if FalConfig::app(other).ne(FalConfig::app(model)) => {
                Err(format!("{other:?} is of another app than {model:?}"))
            }
            Some(other) if self.takes_image(other) => Ok((model.clone(), other.to_owned())),
            Some(other) => Err(format!("{other:?} has no pattern in inputs with {{image}} in it")),
            None => Err(format!("{model:?} must be owner/app and lead to such an id")),
        };
        let image_models = image_models.iter().map(read).collect::<Result<_, String>>()?;
        Ok(FalConfig { image_models, ..self })
    }

    /// The pattern for a model, by the provider's name.
    pub fn input(&self, model: &str) -> Option<&InputPattern> {
        let counts = |name: &str| model.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.inputs.iter().filter(|(name, _)| counts(name)).max_by_key(|(name, _)| name.len()).map(|(_, input)| input)
    }

    /// Patterns as they stand in the settings, for accounts that code sets up.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_inputs(inputs: &toml::Table) -> Result<FalConfig, String> {
        let read = |(model, pattern): (&String, &Toml)| match pattern {
            Toml::Table(fields) if is_model(model) => {
                Ok((model.clone(), InputPattern::read(fields).map_err(|wrong| format!("{model:?} {wrong}"))?))
            }
            _ => Err(format!("{model:?} must be owner/app or owner/app/path and lead to a table of fields")),
        };
        Ok(FalConfig { inputs: inputs.iter().map(read).collect::<Result<_, _>>()?, ..FalConfig::default() })
    }
}

/// The account's `inputs`; problems are noted.
pub(super) fn read(section: &mut Section<'_>) -> FalConfig {
    section.require("inputs");
    let config = FalConfig::from_inputs(&section.table("inputs")).unwrap_or_else(|wrong| {
        section.problem("inputs", format_args!("is wrong: {wrong}"));
        FalConfig::default()
    });
    config.clone().with_image_models(&section.table("image_models")).unwrap_or_else(|wrong| {
        section.problem("image_models", format_args!("is wrong: {wrong}"));
        config
    })
}

/// A model's input without the prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputPattern(BTreeMap<String, Field>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Constant(Value),
    Text(Vec<Piece>),
    Number(Quantity),
    Table(InputPattern),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Quantity(Quantity),
}

/// What differs from order to order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    Seconds,
    Width,
    Height,
    /// `1280x720`
    Size,
    /// `16:9`
    AspectRatio,
    /// `720p`
    Resolution,
    /// The reference image, as a data URI.
    Image,
}

impl Quantity {
    const NAMES: [(&str, Quantity); 7] = [
        ("seconds", Quantity::Seconds),
        ("width", Quantity::Width),
        ("height", Quantity::Height),
        ("size", Quantity::Size),
        ("aspect_ratio", Quantity::AspectRatio),
        ("resolution", Quantity::Resolution),
        ("image", Quantity::Image),
    ];

    fn named(name: &str) -> Result<Quantity, String> {
        let found = Quantity::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, quantity)| *quantity).ok_or_else(|| {
            let known: Vec<&str> = Quantity::NAMES.iter().map(|(name, _)| *name).collect();
            format!("has {{{name}}}, which is none of {}", known.join(", "))
        })
    }
}

impl InputPattern {
    fn read(fields: &toml::Table) -> Result<InputPattern, String> {
        if fields.contains_key("prompt") {
            return Err("must not say the prompt".to_owned());
        }
        let pattern = InputPattern::read_table(fields)?;
        let mut said = Vec::new();
        pattern.collect(&mut said);
        if !said.contains(&Quantity::Seconds) {
            return Err("must say {seconds} somewhere: a length that is not asked for costs money too".to_owned());
        }
        if said.iter().all(|quantity| matches!(quantity, Quantity::Seconds | Quantity::Image)) {
            return Err("must say the size somewhere, such as {aspect_ratio} and {resolution}".to_owned());
        }
        Ok(pattern)
    }

    fn read_table(fields: &toml::Table) -> Result<InputPattern, String> {
        let read = |(name, value): (&String, &Toml)| Ok((name.clone(), Field::read(value)?));
        fields.iter().map(read).collect::<Result<_, String>>().map(InputPattern)
    }

    /// The fields of one order; `value_of` is asked for what the pattern leaves open.
    ///
    /// # Errors
    /// The quantity for which there is no value.
    pub fn fill(
        &self,
        value_of: &dyn Fn(Quantity) -> Option<String>,
    ) -> Result<serde_json::Map<String, Value>, Quantity> {
        let without_image = value_of(Quantity::Image).is_none();
        let sent = self.0.iter().filter(|(_, field)| !(without_image && field.is_image()));
        sent.map(|(name, field)| Ok((name.clone(), field.fill(value_of)?))).collect()
    }

    fn says(&self, quantity: Quantity) -> bool {
        let mut said = Vec::new();
        self.collect(&mut said);
        said.contains(&quantity)
    }

    fn collect(&self, said: &mut Vec<Quantity>) {
        for field in self.0.values() {
            match field {
                Field::Constant(_) => {}
                Field::Number(quantity) => said.push(*quantity),
                Field::Table(table) => table.collect(said),
                Field::Text(pieces) => said.extend(pieces.iter().filter_map(|piece| match piece {
                    Piece::Literal(_) => None,
                    Piece::Quantity(quantity) => Some(*quantity),
                })),
            }
        }
    }
}

impl Field {
    /// Whether it is only there for an image.
    fn is_image(&self) -> bool {
        matches!(self, Field::Text(pieces) if pieces.contains(&Piece::Quantity(Quantity::Image)))
    }

    fn read(value: &Toml) -> Result<Field, String> {
        match value {
            Toml::Table(fields) => Ok(Field::Table(InputPattern::read_table(fields)?)),
            Toml::String(text) => Field::read_text(text),
            constant => serde_json::to_value(constant).map(Field::Constant).map_err(|error| error.to_string()),
        }
    }

    fn read_text(text: &str) -> Result<Field, String> {
        if let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix(":number}")) {
            return match Quantity::named(name)? {
                number @ (Quantity::Seconds | Quantity::Width | Quantity::Height) => Ok(Field::Number(number)),
                _ => Err(format!("has {{{name}}} as a number, which it is not")),
            };
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((literal, behind)) = rest.split_once('{') {
            let (name, behind) = behind.split_once('}').ok_or_else(|| format!("has a brace left open in {text:?}"))?;
            pieces.push(Piece::Literal(literal.to_owned()));
            pieces.push(Piece::Quantity(Quantity::named(name)?));
            rest = behind;
        }
        pieces.push(Piece::Literal(rest.to_owned()));
        Ok(Field::Text(pieces))
    }

    fn fill(&self, value_of: &dyn Fn(Quantity) -> Option<String>) -> Result<Value, Quantity> {
        let known = |quantity: Quantity| value_of(quantity).ok_or(quantity);
        match self {
            Field::Constant(value) => Ok(value.clone()),
            Field::Table(table) => table.fill(value_of).map(Value::Object),
            Field::Number(quantity) => known(*quantity)?.parse::<u64>().map(Value::from).map_err(|_| *quantity),
            Field::Text(pieces) => {
                let texts = pieces.iter().map(|piece| match piece {
                    Piece::Literal(text) => Ok(text.clone()),
                    Piece::Quantity(quantity) => known(*quantity),
                });
                texts.collect::<Result<String, Quantity>>().map(Value::String)
            }
        }
    }
}

/// `owner/app`, possibly with a path.
fn is_model(name: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    name.contains('/') && name.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(inputs: &str) -> Result<FalConfig, String> {
        FalConfig::from_inputs(&inputs.parse().unwrap())
    }

    fn filled(pattern: &InputPattern) -> Result<Value, Quantity> {
        let value_of = |quantity| match quantity {
            Quantity::Seconds => Some("8".to_owned()),
            Quantity::Width => Some("1280".to_owned()),
            Quantity::Height => Some("720".to_owned()),
            Quantity::Size => Some("1280x720".to_owned()),
            Quantity::AspectRatio => Some("16:9".to_owned()),
            Quantity::Resolution | Quantity::Image => None,
        };
        pattern.fill(&value_of).map(Value::Object)
    }

    #[test]
    fn a_pattern_is_filled_in_the_form_that_the_model_wants() {
        let config = config(
            r#"
            "a/text" = { duration = "{seconds}s", aspect_ratio = "{aspect_ratio}", generate_audio = true, seeds = [1, 2] }
            "a/digits" = { duration = "{seconds}", size = "{size}" }
            "a/number" = { duration = "{seconds:number}", video_size = { width = "{width:number}", height = "{height}" } }
            "a/named" = { duration = "{seconds}", resolution = "{resolution}" }
            "#,
        )
        .unwrap();
        let of = |model| filled(config.input(model).unwrap());
        let text = json!({"duration": "8s", "aspect_ratio": "16:9", "generate_audio": true, "seeds": [1, 2]});
        assert_eq!(of("a/text"), Ok(text));
        assert_eq!(of("a/digits"), Ok(json!({"duration": "8", "size": "1280x720"})));
        assert_eq!(of("a/number"), Ok(json!({"duration": 8, "video_size": {"width": 1280, "height": "720"}})));
        assert_eq!(of("a/named"), Err(Quantity::Resolution));
    }

    #[test]
    fn the_longest_name_counts_and_only_in_whole_segments() {
        let config = config(
            r#"
            "fal-ai/veo3.1" = { duration = "{seconds}s", size = "{size}" }
            "fal-ai/veo3.1/fast" = { duration = "{seconds}", size = "{size}" }
            "#,
        )
        .unwrap();
        let duration = |model| config.input(model).map(|pattern| filled(pattern).unwrap()["duration"].clone());
        assert_eq!(duration("fal-ai/veo3.1"), Some(json!("8s")));
        assert_eq!(duration("fal-ai/veo3.1/image-to-video"), Some(json!("8s")));
        assert_eq!(duration("fal-ai/veo3.1/fast/image-to-video"), Some(json!("8")));
        assert_eq!((duration("fal-ai/veo3.12"), duration("fal-ai/kling")), (None, None));
    }

    #[test]
    fn what_would_leave_the_price_to_the_provider_is_refused() {
        for (inputs, what) in [
            (r#""a/b" = { aspect_ratio = "{aspect_ratio}" }"#, "{seconds}"),
            (r#""a/b" = { duration = "{seconds}" }"#, "the size"),
            (r#""a/b" = { duration = "{seconds}", size = "{size}", prompt = "x" }"#, "prompt"),
            (r#""a/b" = { duration = "{second}", size = "{size}" }"#, "{second}, which is none of"),
            (r#""a/b" = { duration = "{seconds", size = "{size}" }"#, "left open"),
            (r#""a/b" = { duration = "{seconds}", size = "{size:number}" }"#, "as a number"),
            (r#""../b" = { duration = "{seconds}", size = "{size}" }"#, "owner/app"),
            (r#"model = { duration = "{seconds}", size = "{size}" }"#, "owner/app"),
            (r#""a/b" = 4"#, "owner/app"),
        ] {
            let wrong = config(inputs).unwrap_err();
            assert!(wrong.contains(what), "{inputs}: {wrong}");
        }
    }

    #[test]
    fn a_field_for_the_image_is_there_only_with_an_image_and_maybe_under_another_id() {
        let inputs = r#"
            "a/text" = { duration = "{seconds}", size = "{size}" }
            "a/text/start" = { duration = "{seconds}", size = "{size}", image_url = "{image}" }
            "a/both" = { duration = "{seconds}", size = "{size}", start = { image_url = "{image}" }, image_url = "{image}" }
        "#;
        let config = config(inputs).unwrap();
        assert!(config.takes_image("a/both") && !config.takes_image("a/text") && !config.takes_image("a/none"));
        let without = filled(config.input("a/both").unwrap()).unwrap();
        assert_eq!(without, json!({"duration": "8", "size": "1280x720", "start": {}}));
        let with = |quantity| match quantity {
            Quantity::Image => Some("data:x".to_owned()),
            _ => Some("7".to_owned()),
        };
        let with = Value::Object(config.input("a/both").unwrap().fill(&with).unwrap());
        assert_eq!((&with["image_url"], &with["start"]["image_url"]), (&json!("data:x"), &json!("data:x")));
        let other = config.clone().with_image_models(&r#""a/text" = "a/text/start""#.parse().unwrap()).unwrap();
        assert!(other.takes_image("a/text"));
        assert_eq!((other.image_model("a/text"), other.image_model("a/both")), ("a/text/start", "a/both"));
        for wrong in [r#""a/text" = "a/text/other""#, r#""a/text" = "a/both""#, r#""a/both" = "a""#, r#""a/both" = 4"#]
        {
            assert!(config.clone().with_image_models(&wrong.parse().unwrap()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_image_model_is_of_the_same_app_whose_ids_may_begin_with_a_kind() {
        for (model, app) in [
            ("fal-ai/veo3.1", "fal-ai/veo3.1"),
            ("fal-ai/veo3.1/fast/image-to-video", "fal-ai/veo3.1"),
            ("workflows/acme/film", "workflows/acme/film"),
            ("workflows/acme/film/long", "workflows/acme/film"),
            ("comfy/acme/film/long", "comfy/acme/film"),
            ("workflowsy/acme/film", "workflowsy/acme"),
        ] {
            assert_eq!(FalConfig::app(model).collect::<Vec<_>>().join("/"), app, "{model}");
        }
        let input = "{ duration = \"{seconds}\", size = \"{size}\", image_url = \"{image}\" }";
        for kind in KINDS {
            let config = config(&format!("\"{kind}/acme\" = {input}")).unwrap();
            let with = |other: &str| {
                let image_models = format!("\"{kind}/acme/a\" = \"{kind}/acme/{other}\"");
                config.clone().with_image_models(&image_models.parse().unwrap())
            };
            assert!(with("a/image").is_ok());
            let wrong = with("b").unwrap_err();
            assert!(wrong.contains("of another app"), "{wrong}");
        }
    }
}
