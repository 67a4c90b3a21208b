//! What the settings promise: defaults, order of sources, every problem at once, no secret shown.

use std::time::Duration;

use chrono::NaiveDate;

use super::{Config, ConfigError, GoogleIdentity, LimitsConfig, ModelConfig, ProviderKind, RouteConfig, VeoConfig};
use crate::domain::Credits;

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load(text: &str) -> Config {
    Config::from_sources(text, []).unwrap()
}

fn problems(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    match Config::from_sources(text, variables(environment)) {
        Err(ConfigError::Invalid(problems)) => problems,
        other => panic!("expected problems, got {other:?}"),
    }
}

const ACCOUNT: &str = r#"
[[provider]]
name = "main"
kind = "openai_videos"
base_url = "https://gateway.example.com/v1"
api_key_env = "MAIN_KEY"
requests_per_minute = 50
max_in_flight = 20
"#;

const MODEL: &str = r#"
[[model]]
name = "clip"
provider = "main"
price_credits = 61
standard_seconds = 4
seconds = [4, 8]
sizes = ["1280x720"]
"#;

#[test]
fn nothing_given_means_the_defaults() {
    let config = load("");
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!((config.engine.slots, config.engine.heartbeat), (2000, Duration::from_secs(1)));
    assert_eq!(config.limits.max_body_bytes, 67_108_864);
    let LimitsConfig { default_requests_per_minute, default_requests_per_minute_per_key, .. } = config.limits;
    assert_eq!((default_requests_per_minute, default_requests_per_minute_per_key), (1_200, 600));
    assert_eq!(config.storage.max_video_bytes, 1_073_741_824);
    assert_eq!((config.http.connections.total, config.http.waits.header), (4096, Duration::from_secs(10)));
    assert!(config.http.tls.is_none() && config.http.metrics_listen.is_none());
    assert!(config.storage.url.path().ends_with("/.freezeframe/videos/"), "{}", config.storage.url);
    assert!(config.database_url.is_none() && config.providers.is_empty());
    assert_eq!(
        config.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(),
        ["sora-2", "sora-2-pro", "veo-3.1"]
    );
    assert_eq!(super::model_problems(&config.models), Vec::<String>::new());
}

/// The example with every commented setting switched on has to load: it names no unknown key and no wrong type.
#[test]
fn every_setting_of_the_example_file_is_known() {
    let text = include_str!("../../freezeframe.example.toml");
    let setting = |line: &str| {
        let line = line.trim_start_matches('#');
        line.starts_with("[[") || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
    };
    let lines = text.lines().map(|line| if setting(line) { line.trim_start_matches('#') } else { line });
    let text = lines.collect::<Vec<_>>().join("\n");
    let config = load(&text);
    assert_eq!((config.providers.len(), config.models.len()), (5, 3));
    for key in [
        "postgres_run_as",
        "finalize_slots",
        "tls_key",
        "drain_secs",
        "lookup_pause_ms",
        "can_list",
        "idempotency_key",
        "cost_credits",
        "length_prices",
        "available_until",
        "probe_secs",
        "circuit_faults",
        "overflow",
    ] {
        assert!(text.contains(&format!("\n{key} = ")), "{key}");
    }
    load(include_str!("../../freezeframe.example.toml"));
}

#[test]
fn each_kind_of_account_has_settings_of_its_own() {
    let account = |kind: &str, more: &str| {
        let text = ACCOUNT.replace("\"openai_videos\"", &format!("\"{kind}\"")) + more;
        text.replace(
            "api_key_env = \"MAIN_KEY\"",
            if more.contains("key_file") { "" } else { "api_key_env = \"MAIN_KEY\"" },
        )
    };
    let kind = |text: &str| load(&(text.to_owned() + MODEL)).providers[0].kind.clone();
    assert_eq!(kind(&account("veo_gemini", "")), ProviderKind::VeoGemini(VeoConfig::default()));
    let vertex = "project = \"p-1\"\nlocation = \"us-central1\"\n";
    let ProviderKind::VeoVertex(veo, of_vertex) = kind(&account("veo_vertex", vertex)) else { panic!("no vertex") };
    assert_eq!((veo.person_generation, of_vertex.identity, of_vertex.storage_uri), (None, GoogleIdentity::Key, None));
    let more =
        format!("{vertex}key_file = \"/k.json\"\nstorage_uri = \"gs://b/p/\"\nperson_generation = \"allow_all\"\n");
    let ProviderKind::VeoVertex(veo, of_vertex) = kind(&account("veo_vertex", &more)) else { panic!("no vertex") };
    assert_eq!(veo.person_generation.as_deref(), Some("allow_all"));
    assert_eq!(of_vertex.identity, GoogleIdentity::KeyFile("/k.json".into()));
    assert_eq!(of_vertex.storage_uri.as_deref(), Some("gs://b/p"));

    for (text, problem) in [
        (account("veo_vertex", "location = \"l\"\n"), "`provider \"main\".project` is missing"),
        (account("veo_vertex", "project = \"a/b\"\nlocation = \"l\"\n"), "`provider \"main\".project` must have"),
        (
            account("veo_vertex", &format!("{vertex}storage_uri = \"s3://b\"\n")),
            "`provider \"main\".storage_uri` must be",
        ),
        (account("veo_gemini", vertex), "unknown setting `provider \"main\".location`"),
        (account("pigeon", ""), "`provider \"main\".kind` must be one of openai_videos, veo_gemini, veo_vertex"),
    ] {
        let found = problems(&(text + MODEL), &[]);
        assert!(found.iter().any(|found| found.starts_with(problem)), "{problem}: {found:?}");
    }
}

#[test]
fn the_login_of_requests_belongs_to_a_database_that_is_named() {
    let url = "postgres://db/x";
    let environment = variables(&[("DATABASE_URL", url), ("FREEZEFRAME_DATABASE_API_URL", url)]);
    assert_eq!(Config::from_sources("", environment).unwrap().database_api_url.unwrap().expose(), url);
    let environment = variables(&[("FREEZEFRAME_DATABASE_API_URL", url)]);
    let alone = Config::from_sources("", environment).unwrap_err().to_string();
    assert!(alone.contains("database_api_url") && alone.contains("needs database_url"), "{alone}");
    let text = "database_url = \"postgres://db/x\"\ndatabase_api_url = \"mysql://db/x\"";
    let wrong = Config::from_sources(text, []).unwrap_err().to_string();
    assert!(wrong.contains("database_api_url") && wrong.contains("postgres://"), "{wrong}");
}

#[test]
fn the_environment_wins_over_the_file_and_database_url_over_both() {
    let text = "listen = \"0.0.0.0:1\"\ndatabase_url = \"postgres://file\"\n[engine]\nslots = 7\n[log]\njson = false";
    let environment = variables(&[
        ("FREEZEFRAME_ENGINE__SLOTS", "9"),
        ("FREEZEFRAME_LOG__JSON", "true"),
        ("FREEZEFRAME_DATABASE_URL", "postgres://variable"),
        ("DATABASE_URL", "postgres://last"),
        ("FREEZEFRAME_LISTEN", ""),
        ("FREEZEFRAME_API_KEY", "of the client"),
    ]);
    let config = Config::from_sources(text, environment).unwrap();
    assert_eq!(config.engine.slots, 9);
    assert!(config.log.json);
    assert_eq!(config.listen.port(), 1);
    assert_eq!(config.database_url.unwrap().expose(), "postgres://last");
}

#[test]
fn every_problem_is_told_at_once_by_name() {
    let text = r#"
        listen = "everywhere"
        colour = "blue"
        public_url = "https://user:pass@example.com"
        [engine]
        slots = 0
        slotz = 5
        heartbeat_ms = 4000
        [scheduler]
        wave = "many"
        [storage]
        url = "ftp://host/x"
        [[provider]]
        name = "Main"
        kind = "carrier-pigeon"
        [[model]]
        name = "clip"
        seconds = [4.5]
    "#;
    let found =
        problems(text, &[("FREEZEFRAME_ENGINE__POLL", "5"), ("FREEZEFRAME_LIMITS__MAX_ITEMS", "ten")]).join("\n");
    for part in [
        "`listen` must be an address",
        "unknown setting `colour`",
        "`public_url` must be a URL",
        "`engine.slots` must be a whole number from 1",
        "unknown setting `engine.slotz`",
        "`engine.dead_after_ms` must be at least three times",
        "`scheduler.wave` must be a whole number",
        "`storage.url` must be a path",
        "`provider \"Main\".name` must have",
        "`provider \"Main\".kind` must be",
        "`provider \"Main\".base_url` is missing",
        "`provider \"Main\".api_key_env` is missing",
        "`provider \"Main\".requests_per_minute` is missing",
        "`model \"clip\".price_credits` is missing",
        "`model \"clip\".seconds` must be a list",
        "`model \"clip\".sizes` must name at least one size",
        "FREEZEFRAME_ENGINE__POLL",
        "`limits.max_items` must be a whole number",
    ] {
        assert!(found.contains(part), "{part:?} is missing in:\n{found}");
    }
}

#[test]
fn what_an_account_may_spend_affords_its_dearest_video_and_has_a_window() {
    let lines = |more: &str| format!("{}{more}\n{MODEL}", ACCOUNT);
    let spend = |more: &str| load(&lines(more)).providers[0].spend;
    assert_eq!(spend(""), None);
    assert_eq!(spend("spend_credits = 122"), Some((122, Duration::from_secs(600))));
    assert_eq!(spend("spend_credits = 500\nspend_window_secs = 86400"), Some((500, Duration::from_secs(86_400))));
    for (wrong, why) in [
        ("spend_credits = 121", "must be at least 122, which is what the dearest video of \"clip\" may cost there"),
        ("spend_credits = 0", "must be a whole number from 1"),
        ("spend_credits = 500\nspend_window_secs = 59", "must be a whole number from 60 to 86400"),
        ("spend_window_secs = 60", "is there without spend_credits"),
    ] {
        let found = problems(&lines(wrong), &[]).join("\n");
        assert!(found.contains(why), "{wrong}: {found}");
    }
}

#[test]
fn a_certificate_needs_its_key_and_a_body_has_to_fit_into_memory() {
    let found = problems("[http]\ntls_cert = \"/a.pem\"\nmax_buffered_body_bytes = 1024\nidle_timeout_secs = 0", &[]);
    let found = found.join("\n");
    for part in [
        "`http.tls_key` is missing, but tls_cert is there",
        "`http.max_buffered_body_bytes` must be at least limits.max_body_bytes",
        "`http.idle_timeout_secs` must be a whole number from 1",
    ] {
        assert!(found.contains(part), "{part:?} is missing in:\n{found}");
    }
    let tls = load("[http]\ntls_cert = \"/a.pem\"\ntls_key = \"/b.pem\"").http.tls.unwrap();
    assert_eq!((tls.cert.to_str(), tls.key.to_str()), (Some("/a.pem"), Some("/b.pem")));
}

#[test]
fn a_key_may_use_half_of_its_tenant_s_requests_or_what_is_set_and_never_more_than_all() {
    let per_key = |text: &str| load(&format!("[limits]\n{text}")).limits.default_requests_per_minute_per_key;
    assert_eq!(per_key("default_requests_per_minute = 7"), 4);
    assert_eq!(per_key("default_requests_per_minute = 7\ndefault_requests_per_minute_per_key = 7"), 7);
    let found = problems("[limits]\ndefault_requests_per_minute_per_key = 1201", &[]);
    assert_eq!(found, ["`limits.default_requests_per_minute_per_key` must be at most default_requests_per_minute"]);
}

#[test]
fn no_secret_is_ever_shown() {
    let environment = variables(&[("MAIN_KEY", "sk-very-secret"), ("DATABASE_URL", "postgres://u:hunter2@h/d")]);
    let config = Config::from_sources(&format!("{ACCOUNT}{MODEL}"), environment).unwrap();
    assert_eq!(config.providers[0].api_key.as_ref().unwrap().expose(), "sk-very-secret");
    let shown = format!("{config:?} {config:#?}");
    assert!(!shown.contains("very-secret") && !shown.contains("hunter2"), "{shown}");

    let broken = Config::from_sources("database_url = \"postgres://u:hunter2@h/d", []).unwrap_err();
    assert!(matches!(broken, ConfigError::Syntax { line: 1, .. }), "{broken}");
    let wrong = Config::from_sources("[database_url]\nhunter2 = 1", []).unwrap_err();
    let not_postgres = Config::from_sources("", variables(&[("DATABASE_URL", "mysql://u:hunter2@h/d")])).unwrap_err();
    for error in [broken, wrong, not_postgres] {
        assert!(!format!("{error} {error:?}").contains("hunter2@"), "{error}");
    }
}

#[test]
fn a_storage_target_is_a_path_or_a_known_kind_of_url() {
    let target = |text: &str| load(&format!("[storage]\nurl = {text:?}")).storage.url.to_string();
    assert_eq!(target("/var/lib/films"), "file:///var/lib/films/");
    assert_eq!(target("file:///var/lib/films"), "file:///var/lib/films");
    assert_eq!(target("s3://bucket/prefix"), "s3://bucket/prefix");
    assert_eq!(target("memory://"), "memory://");
    assert_eq!(target("gs://bucket/a/b"), "gs://bucket/a/b");
    assert_eq!(target("az://container"), "az://container");
    for wrong in
        ["s3://", "s3://key:secret@bucket/x", "s3://bucket/x?sig=secret", "file://host/x", "https://example.com/"]
    {
        let found = problems(&format!("[storage]\nurl = {wrong:?}"), &[]).join("\n");
        assert!(found.contains("`storage.url` must be") && !found.contains("secret"), "{wrong}: {found}");
    }
}

#[test]
fn keys_of_a_bucket_come_from_settings_or_the_vendors_variables_and_are_never_shown() {
    let environment = variables(&[
        ("FREEZEFRAME_STORAGE__SECRET_ACCESS_KEY", "hunter2"),
        ("FREEZEFRAME_STORAGE__ACCESS_KEY_ID", "AKIA"),
        ("AWS_SESSION_TOKEN", "hunter3"),
        ("AWS_REGION", "eu-west-1"),
        ("GOOGLE_SERVICE_ACCOUNT", "/etc/key.json"),
    ]);
    let text = "[storage]\nurl = \"s3://bucket/x\"\nendpoint = \"https://s3.example.com\"\nretention_days = 7";
    let storage = Config::from_sources(text, environment.clone()).unwrap().storage;
    assert_eq!(storage.retention_days, 7);
    assert_eq!(storage.access.secret_access_key.as_ref().unwrap().expose(), "hunter2");
    let names: Vec<&str> = storage.access.environment.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["aws_region", "aws_session_token"]);
    assert!(!format!("{storage:?} {storage:#?}").contains("hunter"), "{storage:?}");
    let local = Config::from_sources("", environment[2..].to_vec()).unwrap().storage;
    assert!(local.access.environment.is_empty() && local.retention_days == 30);
    for (wrong, part) in [
        ("access_key_id = \"AK\"", "must be given together"),
        ("retention_days = 0", "`storage.retention_days` must be a whole number from 1"),
        ("endpoint = \"https://key:hunter2@s3.example.com\"", "`storage.endpoint` must be"),
        ("upload_memory_bytes = 100", "`storage.upload_memory_bytes` must be"),
    ] {
        let found = problems(&format!("[storage]\nurl = \"s3://bucket\"\n{wrong}"), &[]).join("\n");
        assert!(found.contains(part) && !found.contains("hunter2"), "{wrong}: {found}");
    }
    let google = "[storage]\nurl = \"gs://bucket\"\naccess_key_id = \"AK\"\nsecret_access_key = \"hunter2\"";
    assert!(problems(google, &[])[0].contains("is not for gs://"));
}

#[test]
fn a_key_variable_may_have_our_prefix_and_may_be_absent() {
    let text = format!("{ACCOUNT}{MODEL}").replace("MAIN_KEY", "FREEZEFRAME_MAIN_KEY");
    let config = Config::from_sources(&text, variables(&[("FREEZEFRAME_MAIN_KEY", " k \n")])).unwrap();
    assert_eq!(config.providers[0].api_key.as_ref().unwrap().expose(), "k");
    assert!(load(&text).providers[0].api_key.is_none());
}

#[test]
fn a_price_with_a_fraction_is_refused_by_its_combination() {
    let fraction = MODEL.replace("seconds = [4, 8]", "seconds = [4, 6]");
    let found = problems(&format!("{ACCOUNT}{fraction}"), &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("\"clip\": 6 seconds at 1280x720"), "{found:?}");

    let whole = format!("{ACCOUNT}{fraction}length_prices = {{ \"6\" = 92 }}\n");
    let model: &ModelConfig = &load(&whole).models[0];
    let size = model.default_size;
    assert_eq!(model.price(6, size), Credits::new(92).ok());
    assert_eq!(model.price(4, size), Credits::new(61).ok());
    assert_eq!(model.price(5, size), None);
    assert_eq!(model.routes, [RouteConfig::new("main", "clip")]);
}

#[test]
fn a_video_costs_in_proportion_to_its_price_rounded_up_and_a_route_may_know_better() {
    let size = load(&format!("{ACCOUNT}{MODEL}")).models[0].default_size;
    let cost = |more: &str, route: RouteConfig| {
        let model = load(&format!("{ACCOUNT}{MODEL}{more}\n")).models.remove(0);
        [4, 8].map(|seconds| model.cost(&route, seconds, size).map(Credits::get))
    };
    let route = || RouteConfig::new("main", "clip");
    assert_eq!(cost("", route()), [None, None], "nobody said");
    assert_eq!(cost("cost_credits = 40", route()), [Some(40), Some(80)]);
    let dearer = RouteConfig { cost_credits: Credits::new(50).ok(), ..route() };
    assert_eq!(cost("cost_credits = 40", dearer), [Some(50), Some(100)]);
    // 40 x 100 / 61
    assert_eq!(cost("cost_credits = 40\nlength_prices = { \"8\" = 100 }", route()), [Some(40), Some(66)]);
}

#[test]
fn a_model_lists_its_routes_in_order_and_every_problem_of_them_is_told() {
    let other = ACCOUNT.replace("\"main\"", "\"other\"");
    let with = |routes: &str| format!("{ACCOUNT}{other}{}", MODEL.replace("provider = \"main\"", routes));
    let model = load(&with(
        "overflow = true\nroutes = [{ provider = \"other\", upstream = \"x\", available_until = 2026-09-24 }, { provider = \"main\" }]",
    ))
    .models
    .remove(0);
    let until = NaiveDate::from_ymd_opt(2026, 9, 24);
    let first = RouteConfig { available_until: until, ..RouteConfig::new("other", "x") };
    assert_eq!(model.routes, [first, RouteConfig::new("main", "clip")]);
    assert!(model.overflow);

    let told = |routes: &str| problems(&with(routes), &[]).join("\n");
    assert!(told("routes = []").contains("`model \"clip\".routes` must name at least one route"));
    assert!(told("routes = 5").contains("`model \"clip\".routes` must be a list of tables"));
    assert!(told("provider = \"main\"\nroutes = [{ provider = \"other\" }]").contains("stands beside routes"));
    assert!(told("routes = [{ provider = \"main\" }, { provider = \"main\" }]").contains("is there twice"));
    assert!(told("routes = [{ provider = \"main\" }, { provider = \"gone\" }]").contains("the provider \"gone\""));
    assert!(told("replacement = \"clip\"\nprovider = \"main\"").contains("is its own replacement"));
    let all = told(
        "routes = [{ upstream = \"x\" }, { provider = \"main\", until = 1 }, { provider = 3, available_until = \"soon\" }]",
    );
    for part in [
        "`model \"clip\".routes number 1.provider` is missing",
        "unknown setting `model \"clip\".routes number 2.until`",
        "`model \"clip\".routes number 3.provider` must be a text",
        "`model \"clip\".routes number 3.available_until` must be a day",
    ] {
        assert!(all.contains(part), "{part:?} is missing in:\n{all}");
    }
}

#[test]
fn models_are_checked_against_each_other_and_against_the_accounts() {
    let twice = format!("{ACCOUNT}{MODEL}{MODEL}replacement = \"nothing\"\n");
    let found = problems(&twice, &[]).join("\n");
    assert!(found.contains("is there twice") && found.contains("replacement \"nothing\" is no model"), "{found}");
    let orphan = format!("{ACCOUNT}{}", MODEL.replace("\"main\"", "\"other\""));
    assert!(problems(&orphan, &[])[0].contains("names the provider \"other\""));
    assert!(problems(ACCOUNT, &[])[0].contains("\"sora-2\" names the provider \"sora\""));
    assert!(problems(&format!("{ACCOUNT}{ACCOUNT}{MODEL}"), &[])[0].contains("is there twice"));
}

#[test]
fn a_fal_account_has_a_pattern_for_each_of_its_models() {
    let account = ACCOUNT.replace("openai_videos", "fal");
    let inputs = "inputs = { \"fal-ai/veo3.1\" = { duration = \"{seconds}s\", aspect_ratio = \"{aspect_ratio}\" } }\n";
    let model = |upstream: &str| MODEL.replace("provider =", &format!("upstream = \"{upstream}\"\nprovider ="));
    let config = load(&format!("{account}{inputs}{}", model("fal-ai/veo3.1/fast")));
    assert!(matches!(&config.providers[0].kind, super::ProviderKind::Fal(fal) if fal.input("fal-ai/veo3.1").is_some()));
    for (text, problem) in [
        (format!("{account}{inputs}{}", model("fal-ai/kling-video/v3")), "have no pattern for it"),
        (format!("{account}{}", model("fal-ai/veo3.1")), ".inputs` is missing"),
        (format!("{account}inputs = \"x\"\n{}", model("fal-ai/veo3.1")), "must be a table"),
        (format!("{account}{}{}", inputs.replace("{seconds}s", "8s"), model("fal-ai/veo3.1")), "must say {seconds}"),
    ] {
        let told = problems(&text, &[]);
        assert!(told.iter().any(|told| told.contains(problem)), "{problem}: {told:?}");
    }
}
