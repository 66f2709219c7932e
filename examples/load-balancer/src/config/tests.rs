use std::path::Path;

use super::{Config, DEFAULT, Policy, parse};

const LEAST: &str = "[[listener]]\naddress = \"127.0.0.1:8080\"\n\
    [[route]]\nupstream = \"app\"\npath = \"/\"\n\
    [upstream.app]\nserver = [{ address = \"127.0.0.1:9000\" }]\n";

fn config(source: &str) -> Result<Config, String> {
    parse(Path::new("lb.toml"), source).map_err(|error| error.to_string())
}

/// The parts that have spans differ in them.
fn shown(config: &Config) -> String {
    let plain = |name: &str| format!("{:?} {:?}", config.upstream[name].as_ref(), config.http);
    format!(
        "{} {:?} {:?} {:?} {:?} {:?}",
        plain("app"),
        config.network,
        config.forwarding,
        config.access_log,
        config.admin,
        config.shutdown,
    )
}

#[test]
fn the_default_file_shows_the_defaults() {
    let (default, least) = (config(DEFAULT).unwrap(), config(LEAST).unwrap());
    assert_eq!(shown(&default), shown(&least));
    let (a, b) = (default.route[0].as_ref(), least.route[0].as_ref());
    assert_eq!((&a.host, &a.path, &a.header), (&b.host, &b.path, &b.header));
}

/// What is commented out has to be accepted, too.
#[test]
fn the_default_files_comments_are_keys() {
    let mut source = String::new();
    for line in DEFAULT.lines() {
        // A route has only one of the two, and an address needs no look-up.
        if line.starts_with("# redirect") || line.starts_with("# resolve") {
            continue;
        }
        let key = line.strip_prefix("# ").filter(|rest| {
            rest.starts_with('[')
                || rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
        });
        source.push_str(key.unwrap_or(line));
        source.push('\n');
    }
    let source = source.replace("policy = \"round-robin\"", "policy = \"maglev\"");
    let config = config(&source).unwrap();
    assert_eq!(config.upstream["app"].as_ref().policy, Policy::Maglev);
    assert!(config.upstream["app"].as_ref().health.is_some());
    assert!(config.upstream["app"].as_ref().tls.is_some());
    assert!(config.admin.is_some() && config.access_log.file.is_some());
    assert_eq!(config.network.shards, Some(2));
}

#[test]
fn errors_name_line_key_value_and_what_is_accepted() {
    for (from, to, line, wanted) in [
        ("path = \"/\"", "path = \"x\"", 5, "path = \"x\": \"x\" is not a path that begins with /"),
        ("path", "paht", 5, "paht = \"/\": unknown field `paht`, expected one of"),
        ("127.0.0.1:8080", "8080", 2, "address = \"8080\": invalid socket address"),
        ("\"app\"", "\"web\"", 4, "upstream = \"web\": \"web\" is no upstream; there are: app"),
        (
            "[upstream.app]\n",
            "[upstream.app]\npolicy = \"best\"\n",
            7,
            "policy = \"best\": unknown variant `best`, expected one of `round-robin`, `weighted`",
        ),
        (
            "[upstream.app]\n",
            "[upstream.app]\npolicy = \"maglev\"\n",
            6,
            "hash_by: the policy \"maglev\" needs",
        ),
        (
            "[upstream.app]\n",
            "[upstream.app]\nhash_by = \"source\"\n",
            6,
            "only the policy \"maglev\" has it",
        ),
        ("[upstream.app]\n", "[upstream.app]\nupgrade = [\"H2C\"]\n", 6, "not accepted"),
        (
            "[upstream.app]\n",
            "[upstream.app]\nslow_start = 5\n",
            7,
            "slow_start = 5: invalid type: integer `5`, expected a string",
        ),
        (
            "[upstream.app]\n",
            "[upstream.app]\npanic_percent = 101\n",
            7,
            "101 is not a number from 0 to 100",
        ),
        (
            "[upstream.app]\n",
            "[upstream.app]\nqueue = { timeout = \"5 s\" }\n",
            7,
            "\"5 s\" is not a length of time, such as",
        ),
        (
            "9000\" }",
            "9000\" }, { address = \"127.0.0.1:9000\" }",
            6,
            "127.0.0.1:9000 is there twice",
        ),
        ("9000\"", "9000\", wieght = 2", 7, "unknown field `wieght`"),
        ("9000\"", "9000\", weight = 0", 7, "0 is not a number from 1 to 1000"),
        ("{ address = \"127.0.0.1:9000\" }", "", 6, "server: at least one is needed"),
        (
            "[[route]]",
            "[http]\nmax_body = \"10x\"\n[[route]]",
            4,
            "max_body = \"10x\": invalid value: string \"10x\", expected a number of bytes",
        ),
        ("[[route]]", "[http]\nmax_headers = 4000000000\n[[route]]", 4, "from 1 to 10000"),
        ("[[route]]", "[http]\nbody_timeout = \"0s\"\n[[route]]", 4, "\"0s\" is not a length"),
        ("path = \"/\"", "path = \"/a/../b\"", 5, "in its shortest spelling"),
        ("path = \"/\"", "path = \"/%61\"", 5, "in its shortest spelling"),
        (
            "[upstream.app]\n",
            "[upstream.app]\ntimeout = { response = \"0s\" }\n",
            7,
            "\"0s\" is not a length of time longer than 0",
        ),
        ("[upstream.app]\n", "[upstream.app]\nslow_start = \"1s\"\n", 6, "slow_start:"),
        (
            "[upstream.app]\n",
            "[upstream.app]\ntls = { name = \"a:443\" }\n",
            7,
            "\"a:443\" is not a host's name or an address",
        ),
        ("[[route]]", "[http]\nmax_streams = 0\n[[route]]", 4, "from 1 to 10000"),
        (
            "[[route]]",
            "[forwarding]\nrequest_id = \"content-length\"\n[[route]]",
            4,
            "\"content-length\" is not the name of a header field without another meaning",
        ),
        ("[[route]]", "[forwarding]\nvia = \"a,b\"\n[[route]]", 4, "\"a,b\" is not visible ASCII"),
        (
            "[[route]]",
            "[http]\nmax_connections = 0\n[[route]]",
            4,
            "0 is not a number from 1 to 10000000",
        ),
        ("upstream = \"app\"\n", "", 3, "a route needs upstream or redirect"),
        (
            "upstream = \"app\"\n",
            "redirect = { to = \"x\" }\n",
            4,
            "\"x\" is not a URL or path such as",
        ),
        (
            "upstream = \"app\"\n",
            "redirect = { to = \"/x\", status = 200 }\n",
            4,
            "200 is none of 301",
        ),
        (
            "upstream = \"app\"\n",
            "upstream = \"app\"\nredirect = { to = \"/x\" }\n",
            3,
            "either upstream or redirect",
        ),
        ("path = \"/\"", "request_header = { remove = [\"Host\"] }", 3, "do not have connection"),
        ("path = \"/\"", "response_header = { remove = [\"Trailer\"] }", 3, "do not have"),
        ("9000\"", "9000\", resolve = \"30s\"", 6, "127.0.0.1:9000 is an address already"),
        ("127.0.0.1:9000\"", "a.internal:9000\", resolve = \"5ms\"", 6, "at least \"1s\""),
        (
            "[[route]]",
            "[[tcp]]\naddress = \"127.0.0.1:8080\"\nupstream = \"app\"\n[[route]]",
            3,
            "another listener has this address",
        ),
        (
            "[[route]]",
            "[[tcp]]\naddress = \"127.0.0.1:81\"\n[[route]]",
            3,
            "tcp: upstream or sni is needed",
        ),
        (
            "[[route]]",
            "[[tcp]]\naddress = \"127.0.0.1:81\"\n\
             sni = [{ host = [], upstream = \"app\" }]\n[[route]]",
            3,
            "tcp: sni.host: at least one is needed",
        ),
        (
            "[[route]]",
            "[[tcp]]\naddress = \"127.0.0.1:81\"\nupstream = \"app\"\n\
             hello_timeout = \"0s\"\n[[route]]",
            6,
            "\"0s\" is not a length of time longer than 0",
        ),
        (
            "path = \"/\"",
            "rate_limit = { requests = 1, per = \"0s\", burst = 1 }",
            5,
            "\"0s\" is not a length of time longer than 0",
        ),
        (
            "[[route]]",
            "[[tcp]]\naddress = \"127.0.0.1:81\"\nupstream = \"x\"\n[[route]]",
            5,
            "\"x\" is no upstream",
        ),
        (
            "[[route]]",
            "proxy_protocol = { trusted = [] }\n[[route]]",
            1,
            "proxy_protocol.trusted: at least one is needed",
        ),
        (
            "[upstream.app]\n",
            "[upstream.app]\nproxy_protocol = \"v3\"\n",
            7,
            "unknown variant `v3`, expected `v1` or `v2`",
        ),
        ("[[route]]", "[htpp]\n[[route]]", 3, "unknown field `htpp`"),
    ] {
        assert!(LEAST.contains(from), "{from}");
        let error = config(&LEAST.replacen(from, to, 1)).unwrap_err();
        assert!(error.starts_with(&format!("lb.toml:{line}: ")), "{to}: {error}");
        assert!(error.contains(wanted), "{to}: {error}");
    }
    let none = LEAST.replacen("[[route]]", "[forwarding]\nrequest_id = \"\"\n[[route]]", 1);
    assert_eq!(config(&none).unwrap().forwarding.request_id, None);
    let error = config("listener = []\nroute = []\nupstream = {}\n").unwrap_err();
    assert!(error.starts_with("lb.toml: there is no [[listener]] and no [[tcp]]"), "{error}");
    let error = config("[[listener]\n").unwrap_err();
    assert!(error.starts_with("lb.toml:1: [[listener]: "), "{error}");
}
