//! Where a `Location` leads.

use http::{HeaderValue, Uri};

/// Resolves `location` against `from`. Never from https to http, never to another scheme, never with userinfo.
///
/// # Errors
/// Why not, without the location, which is often a signed URL.
pub(super) fn target(from: &Uri, location: &HeaderValue) -> Result<Uri, String> {
    let text = location.to_str().map_err(|_| "redirect to what is not text")?;
    let text = text.split('#').next().unwrap_or_default();
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map_or("", |a| a.as_str());
    let absolute = if text.starts_with("//") {
        format!("{scheme}:{text}")
    } else if text.starts_with('/') {
        format!("{scheme}://{authority}{text}")
    } else if text
        .split(['/', '?'])
        .next()
        .is_some_and(|first| first.contains(':'))
    {
        text.to_owned()
    } else {
        let directory = from.path().rfind('/').map_or("/", |at| &from.path()[..=at]);
        format!("{scheme}://{authority}{directory}{text}")
    };
    let uri: Uri = absolute.parse().map_err(|_| "redirect to what is not a URL")?;
    let place = super::request::place(&uri);
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if scheme == "http" => {}
        _ => return Err(format!("redirect from {scheme} to {place} is refused")),
    }
    if uri.authority().is_none_or(|a| a.as_str().contains('@')) {
        return Err(format!(
            "redirect to {place} with a user name or without a host is refused"
        ));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        for (location, want) in [
            ("https://cdn.example/x?sig=1", Ok("https://cdn.example/x?sig=1")),
            ("//cdn.example/x", Ok("https://cdn.example/x")),
            ("/y?a=b:c", Ok("https://r.example/y?a=b:c")),
            ("y", Ok("https://r.example/v2/a/y")),
            ("/y#fragment", Ok("https://r.example/y")),
            ("http://r.example/x", Err(())),
            ("file:///etc/shadow", Err(())),
            ("https://u:p@cdn.example/x", Err(())),
            ("javascript:x", Err(())),
            ("https://", Err(())),
            ("https://a b/", Err(())),
        ] {
            let from = Uri::from_static("https://r.example/v2/a/x?q");
            let found = target(&from, &HeaderValue::from_static(location));
            assert_eq!(
                found.as_ref().map(Uri::to_string).map_err(|_| ()),
                want.map(str::to_owned),
                "{location}"
            );
            assert!(!found.is_err_and(|e| e.contains("u:p")));
        }
        let from = Uri::from_static("http://r.example/v2/a/x");
        assert!(target(&from, &HeaderValue::from_static("http://o.example/")).is_ok());
    }
}
