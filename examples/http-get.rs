//! Fetches a URL, as curl does: the body goes to standard output as it comes.
//!
//! ```sh
//! cargo run --example http-get -- http://127.0.0.1:8080/
//! THRONG_ADDRESS=10.0.0.3/24 cargo run --example http-get -- --device tap:throng1 \
//!     --http2 --include --count 3 http://10.0.0.2/hello
//! ```

use std::io::{self, Write};

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response};
use throng::Builder;
use throng::http::client::{Body, Client, HttpVersion};

#[derive(Clone, Parser)]
struct Args {
    /// The device, such as `tap:throng1`, else what THRONG_DEVICE says, else the host\'s own sockets;
    /// addresses and more come from THRONG_* variables, too.
    #[arg(long)]
    device: Option<String>,
    /// The method; POST where there is something to send, else GET.
    #[arg(short = 'X', long)]
    method: Option<Method>,
    /// Header fields to send, as `name: value`.
    #[arg(short = 'H', long)]
    header: Vec<String>,
    /// What to send.
    #[arg(short, long)]
    data: Option<String>,
    /// Speak HTTP/2, with prior knowledge.
    #[arg(long)]
    http2: bool,
    /// Print the response's head, too.
    #[arg(short, long)]
    include: bool,
    /// How often to ask, one after the other on a connection that is kept.
    #[arg(short = 'n', long, default_value_t = 1)]
    count: u32,
    /// Where to, such as `http://10.0.0.2/hello`.
    url: String,
}

pub(crate) fn main() -> io::Result<()> {
    let args = Args::parse();
    let mut builder = Builder::from_env()?.shards(1);
    if let Some(device) = &args.device {
        builder = builder.device(device);
    }
    builder.run(move |_| fetch(args.clone()))?.into_iter().collect()
}

async fn fetch(args: Args) -> io::Result<()> {
    let version = if args.http2 { HttpVersion::Http2 } else { HttpVersion::Negotiated };
    let client = Client::builder().version(version).build();
    for _ in 0..args.count {
        let response = client.request(request(&args)?).await?;
        print(&args, response).await?;
    }
    if args.count > 1 {
        eprintln!("{:?}", client.stats());
    }
    Ok(())
}

fn request(args: &Args) -> io::Result<Request<Full<Bytes>>> {
    let otherwise = if args.data.is_some() { Method::POST } else { Method::GET };
    let method = args.method.clone().unwrap_or(otherwise);
    let mut request = Request::builder().method(method).uri(&args.url);
    for field in &args.header {
        let (name, value) = field.split_once(':').unwrap_or((field, ""));
        request = request.header(name.trim(), value.trim());
    }
    let body = Full::from(args.data.clone().unwrap_or_default());
    request.body(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

async fn print(args: &Args, response: Response<Body>) -> io::Result<()> {
    let mut out = io::stdout();
    let (head, mut body) = response.into_parts();
    if args.include {
        writeln!(out, "{:?} {}", head.version, head.status)?;
        for (name, value) in &head.headers {
            writeln!(out, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        writeln!(out)?;
    }
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            out.write_all(&bytes)?;
        }
    }
    out.flush()
}
