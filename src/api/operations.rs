//! What every documented operation has in common: its errors are documented and leave as problems, unknown query
//! parameters are refused (a misspelt filter must not be ignored), a wrong method names the right ones, an answer to a valid key
//! says how many requests may follow, and the route that answered is known by its pattern.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use poem::endpoint::{BoxEndpoint, make_sync};
use poem::error::ResponseError as _;
use poem::http::Method;
use poem::http::header::{CACHE_CONTROL, HeaderValue};
use poem::{Endpoint, EndpointExt as _, Request, Response};
use poem_openapi::OpenApi;
use poem_openapi::registry::{MetaApi, MetaParamIn, MetaPath, Registry};
use poem_openapi::types::Type;

use super::error::{ApiError, Problem, responses_of};
use super::rates::Account;

type Methods = HashMap<Method, BoxEndpoint<'static>>;

/// The pattern of the route that answered, as it stands in the document. Data of a response.
#[derive(Clone, Debug)]
pub struct RoutePattern(pub Arc<str>);

/// An API whose operations behave alike.
pub struct Operations<T> {
    api: T,
    prefix: &'static str,
}

impl<T> Operations<T> {
    /// `prefix` is where the API is mounted.
    pub fn new(api: T, prefix: &'static str) -> Operations<T> {
        Operations { api, prefix }
    }
}

impl<T: OpenApi> OpenApi for Operations<T> {
    fn meta() -> Vec<MetaApi> {
        let mut apis = T::meta();
        for operation in apis.iter_mut().flat_map(|api| &mut api.paths).flat_map(|path| &mut path.operations) {
            let errors = responses_of(operation);
            operation.responses.responses.extend(errors);
        }
        apis
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
        Problem::register(registry);
    }

    fn add_routes(self, table: &mut HashMap<String, Methods>) {
        let mut routes = HashMap::new();
        self.api.add_routes(&mut routes);
        for path in T::meta().into_iter().flat_map(|api| api.paths) {
            if let Some((route, methods)) = routes.remove_entry(&router_pattern(&path.path)) {
                let pattern = format!("{}{}", self.prefix, path.path).into();
                table.entry(route).or_default().extend(wrapped(path, methods, pattern));
            }
        }
    }
}

/// The endpoints of a path, and an answer for every other method.
fn wrapped(path: MetaPath, mut endpoints: Methods, pattern: Arc<str>) -> Methods {
    let mut methods = Methods::new();
    for operation in path.operations {
        let query = operation.params.into_iter().filter(|param| param.in_type == MetaParamIn::Query);
        let query = query.map(|param| param.name).collect();
        if let Some(endpoint) = endpoints.remove(&operation.method) {
            let operation_endpoint = Operation { endpoint, query, pattern: pattern.clone() };
            methods.insert(operation.method, operation_endpoint.boxed());
        }
    }
    let mut allowed: Vec<&str> = methods.keys().map(Method::as_str).collect();
    if methods.contains_key(&Method::GET) {
        allowed.push(Method::HEAD.as_str());
    }
    allowed.sort_unstable();
    let allow: Arc<str> = allowed.join(", ").into();
    for other in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS, Method::TRACE]
    {
        methods.entry(other).or_insert_with(|| {
            let (allow, pattern) = (allow.clone(), pattern.clone());
            make_sync(move |request: Request| {
                let mut response = ApiError::method_not_allowed(request.method(), &allow).as_response();
                response.set_data(RoutePattern(pattern.clone()));
                response
            })
            .boxed()
        });
    }
    methods
}

/// The router's way to write the path `/a/{b}/c`: `/a/:param0/c`.
fn router_pattern(path: &str) -> String {
    let mut parameters = 0;
    let segment = |segment: &str| {
        if !segment.starts_with('{') {
            return segment.to_owned();
        }
        parameters += 1;
        format!(":param{}", parameters - 1)
    };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

struct Operation {
    endpoint: BoxEndpoint<'static>,
    query: BTreeSet<String>,
    pattern: Arc<str>,
}

impl Operation {
    fn unknown_parameter(&self, request: &Request) -> Option<ApiError> {
        let names = url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
        let unknown = names.map(|(name, _)| name).find(|name| !self.query.contains(name.as_ref()))?;
        // the name is a stranger's text
        let name: String = unknown.chars().take(64).collect();
        let known = self.query.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let detail = if known.is_empty() {
            "is not known; this address takes none".to_owned()
        } else {
            format!("is not known; known are {known}")
        };
        Some(ApiError::bad_parameter(name, detail))
    }
}

impl Endpoint for Operation {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let account = Account::default();
        request.set_data(account.clone());
        let mut response = match self.unknown_parameter(&request) {
            Some(error) => error.as_response(),
            None => self.endpoint.call(request).await.unwrap_or_else(ApiError::from_framework),
        };
        // a tenant's own data, and true for a moment only
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(spent) = account.spent() {
            spent.write(response.headers_mut());
        }
        response.set_data(RoutePattern(self.pattern.clone()));
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::router_pattern;

    #[test]
    fn a_documented_path_is_found_in_the_router() {
        assert_eq!(router_pattern("/video-batch"), "/video-batch");
        assert_eq!(router_pattern("/video-batch/{batch_id}/videos"), "/video-batch/:param0/videos");
        assert_eq!(router_pattern("/a/{b}/{c}"), "/a/:param0/:param1");
    }
}
