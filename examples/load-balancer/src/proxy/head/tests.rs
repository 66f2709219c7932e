use super::*;

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

fn status(
    method: Method,
    uri: &str,
    fields: &[(&'static str, &'static str)],
) -> Result<String, u16> {
    let uri = uri.parse().unwrap();
    check(&method, &uri, Version::HTTP_11, &headers(fields))
        .map(|target| format!("{} {}", target.host(), target.path))
        .map_err(|refusal| refusal.status.as_u16())
}

#[test]
fn hosts_are_checked() {
    let get = |uri, fields: &[_]| status(Method::GET, uri, fields);
    assert_eq!(get("/a", &[("host", "x:80")]), Ok("x /a".into()));
    assert_eq!(get("/a", &[("host", "[::1]:80")]), Ok("[::1] /a".into()));
    assert_eq!(get("http://y/a", &[("host", "Y:80")]), Ok("y /a".into()), "RFC 9112 3.2.2");
    assert_eq!(get("http://y/a", &[("host", "x")]), Err(400));
    assert_eq!(get("http://y:8080/a", &[("host", "y")]), Err(400));
    assert_eq!(get("/a", &[]), Err(400));
    assert_eq!(get("/a", &[("host", "x"), ("host", "x")]), Err(400));
    for host in ["", "x y", "x/y", "u@x", "x:y", "x:99999", ":80", "x,y/z"] {
        assert_eq!(get("/a", &[("host", host)]), Err(400), "{host}");
    }
    assert_eq!(get("http://u@y/a", &[("host", "x")]), Err(400));
    assert_eq!(get("http://y:99999/a", &[("host", "x")]), Err(400));
    assert_eq!(get("ftp://y/a", &[("host", "x")]), Err(400));
    assert_eq!(get("/a/../../b", &[("host", "x")]), Err(400));
    let old = check(&Method::GET, &"/".parse().unwrap(), Version::HTTP_10, &HeaderMap::new());
    assert!(old.unwrap().authority.is_none(), "HTTP/1.0 has no host");
    let http2 = |uri: &str, fields: &[_]| {
        check(&Method::GET, &uri.parse().unwrap(), Version::HTTP_2, &headers(fields))
            .map(|target| target.host().to_owned())
            .map_err(|refusal| refusal.status.as_u16())
    };
    assert_eq!(http2("https://Y/a", &[]), Ok("Y".into()));
    assert_eq!(http2("https://Y/a", &[("host", "y")]), Ok("Y".into()));
    assert_eq!(http2("https://y/a", &[("host", "x")]), Err(400), "RFC 9113 8.3.1");
    assert_eq!(http2("/a", &[("host", "x")]), Ok("x".into()));
    assert_eq!(http2("/a", &[]), Err(400));
    assert_eq!(http2("https://y:99999/a", &[]), Err(400));
}

#[test]
fn methods_codings_and_expectations_are_checked() {
    let host = ("host", "x");
    for (method, wanted) in [(Method::CONNECT, 405), (Method::TRACE, 405)] {
        assert_eq!(status(method, "/", &[host]), Err(wanted));
    }
    assert_eq!(status(Method::OPTIONS, "*", &[host]), Ok("x /".into()));
    assert_eq!(status(Method::GET, "*", &[host]), Err(400));
    let post = |fields: &[_]| status(Method::POST, "/", fields);
    assert!(post(&[host, ("transfer-encoding", "Chunked")]).is_ok());
    assert_eq!(post(&[host, ("transfer-encoding", "gzip, chunked")]), Err(501));
    let twice = [host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
    assert_eq!(post(&twice), Err(400));
    assert!(post(&[host, ("expect", "100-Continue")]).is_ok());
    assert_eq!(post(&[host, ("expect", "200-ok")]), Err(417));
}

#[test]
fn a_response_has_one_length() {
    let checked = |fields: &[_]| {
        let mut headers = headers(fields);
        let result = check_response(&mut headers).map_err(|refusal| refusal.status.as_u16());
        result.map(|()| headers.contains_key("content-length"))
    };
    assert_eq!(checked(&[("content-length", "3")]), Ok(true));
    assert_eq!(checked(&[("content-length", "3"), ("transfer-encoding", "chunked")]), Ok(false));
    assert_eq!(checked(&[("transfer-encoding", "gzip, chunked")]), Err(502));
    assert_eq!(checked(&[("transfer-encoding", "gzip")]), Err(502));
}

#[test]
fn fields_of_the_connection_go_no_further() {
    let mut headers = headers(&[
        ("connection", "close, X-Private"),
        ("connection", "content-length, host, x-other"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip, Trailers"),
        ("trailer", "x-sum"),
        ("x-private", "1"),
        ("x-other", "1"),
        ("x-public", "1"),
        ("content-length", "5"),
        ("host", "x"),
    ]);
    remove_hop_by_hop(&mut headers);
    let mut left: Vec<_> =
        headers.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
    left.sort();
    assert_eq!(left, ["content-length=5", "host=x", "te=trailers", "trailer=x-sum", "x-public=1"]);
}

#[test]
fn upgrades_are_those_that_are_allowed() {
    let allowed = [Token::parse("websocket").unwrap()];
    let ask = |method, version, fields: &[_]| {
        upgrade(&method, version, &headers(fields), &allowed).is_some()
    };
    let socket = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
    assert!(ask(Method::GET, Version::HTTP_11, &socket));
    assert!(!ask(Method::POST, Version::HTTP_11, &socket));
    assert!(!ask(Method::GET, Version::HTTP_10, &socket));
    assert!(!ask(Method::GET, Version::HTTP_11, &socket[1..]), "connection has to list it");
    assert!(!ask(Method::GET, Version::HTTP_11, &[socket[0], ("upgrade", "h2c")]));
    assert!(!ask(Method::GET, Version::HTTP_11, &[socket[0], socket[1], socket[1]]));
}

#[test]
fn via_grows_and_cookies_are_found() {
    let mut fields = HeaderMap::new();
    add_via(&mut fields, Version::HTTP_11, "");
    assert!(fields.is_empty());
    add_via(&mut fields, Version::HTTP_10, "a");
    add_via(&mut fields, Version::HTTP_11, "b");
    assert_eq!(fields[header::VIA], "1.0 a, 1.1 b");
    let mut crumbs = headers(&[("cookie", "a=1"), ("cookie", "b=2; c=3")]);
    join_cookies(&mut crumbs);
    assert_eq!(crumbs.get_all("cookie").iter().count(), 1);
    assert_eq!(crumbs["cookie"], "a=1; b=2; c=3");
    let fields = headers(&[("cookie", "a=1; lb=\"x y\""), ("cookie", "c=3")]);
    assert_eq!(cookie(&fields, "lb"), Some("x y"));
    assert_eq!(cookie(&fields, "c"), Some("3"));
    assert_eq!(cookie(&fields, "b"), None);
}
