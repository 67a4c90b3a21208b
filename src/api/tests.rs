//! The document: what it promises of every operation.

use std::collections::HashMap;

use poem_openapi::OpenApi as _;
use serde_json::Value;

use super::operations::Operations;
use super::{Api, PREFIX, api, openapi_json, operator_openapi_json};

/// Operations that anybody may call. This list may only get shorter.
const PUBLIC: [&str; 0] = [];

/// Operations by method and path: of customers.
fn operations() -> Vec<(String, Value)> {
    operations_in(&openapi_json())
}

fn operators_operations() -> Vec<(String, Value)> {
    operations_in(&operator_openapi_json())
}

fn operations_in(document: &str) -> Vec<(String, Value)> {
    let document: Value = serde_json::from_str(document).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, methods): (&String, &Value)| {
        let methods = methods.as_object().unwrap();
        methods.iter().map(|(method, operation)| (format!("{method} {path}"), operation.clone())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

#[test]
fn every_operation_demands_a_key() {
    let all = operations();
    assert!(all.len() >= 7, "{} operations", all.len());
    for (name, operation) in all.iter().filter(|(name, _)| !PUBLIC.contains(&name.as_str())) {
        let security = operation["security"].as_array().unwrap_or_else(|| panic!("{name} demands nothing"));
        assert!(!security.is_empty() && security.iter().all(|scheme| scheme.get("ApiKey").is_some()), "{name}");
        for status in ["401", "429"] {
            assert!(operation["responses"].get(status).is_some(), "{name} does not document {status}");
        }
    }
}

#[test]
fn every_operation_of_operators_demands_their_key_and_what_changes_something_their_role() {
    let all = operators_operations();
    assert!(all.len() >= 10, "{} operations", all.len());
    for (name, operation) in &all {
        assert!(name.contains(" /api/operator/"), "{name}");
        let security = operation["security"].as_array().unwrap_or_else(|| panic!("{name} demands nothing"));
        assert!(!security.is_empty() && security.iter().all(|scheme| scheme.get("OperatorKey").is_some()), "{name}");
        assert_eq!(operation["responses"].get("403").is_some(), !name.starts_with("get "), "{name}");
        for status in ["401", "429"] {
            assert!(operation["responses"].get(status).is_some(), "{name} does not document {status}");
        }
    }
    let customers: Vec<String> = operations().into_iter().map(|(name, _)| name).collect();
    assert!(customers.iter().all(|name| name.contains(" /api/enterprise/")), "{customers:?}");
}

#[test]
fn every_documented_path_is_routed_and_takes_what_its_pattern_says() {
    let mut routes = HashMap::new();
    Operations::new(api(), PREFIX).add_routes(&mut routes);
    let documented = Operations::<Api>::meta().into_iter().flat_map(|api| api.paths).count();
    assert_eq!(routes.len(), documented, "{:?}", routes.keys());
    for (name, operation) in operations() {
        let in_path = name.matches('{').count();
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        assert_eq!(parameters.iter().filter(|parameter| parameter["in"] == "path").count(), in_path, "{name}");
    }
}

#[test]
fn every_operation_has_words_a_name_and_its_errors() {
    for (name, operation) in operations().into_iter().chain(operators_operations()) {
        for field in ["summary", "description", "operationId"] {
            assert!(operation[field].as_str().is_some_and(|text| !text.is_empty()), "{name} has no {field}");
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            let is_error = !status.starts_with('2');
            assert_eq!(response["content"].get("application/problem+json").is_some(), is_error, "{name} {status}");
        }
        assert!(operation["responses"].get("503").is_some(), "{name}");
        if name.contains('{') {
            assert!(operation["responses"].get("404").is_some(), "{name}");
        }
    }
}

#[test]
fn the_document_shows_the_body_of_a_submission_and_is_the_same_each_time() {
    let text = openapi_json();
    assert_eq!(text, openapi_json());
    assert!(text.ends_with("}\n"));
    let document: Value = serde_json::from_str(&text).unwrap();
    let submit = &document["paths"]["/api/enterprise/video-batch"]["post"];
    let schema = submit["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str();
    assert_eq!(schema, Some("#/components/schemas/VideoBatchRequest"));
    let properties = &document["components"]["schemas"]["VideoBatchRequest"]["properties"];
    assert!(["items", "webhook_url", "x-request-id", "metadata"].iter().all(|field| properties.get(field).is_some()));
    for status in ["202", "400", "401", "402", "409", "413", "415", "422", "500", "503"] {
        assert!(submit["responses"].get(status).is_some(), "{status}");
    }
}
