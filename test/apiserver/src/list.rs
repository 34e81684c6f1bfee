//! Lists, whole and page by page.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::{Value, json};

use crate::faults::{ItemTypes, ListVersion, Selectors};
use crate::http::{Answer, Ask, list_body};
use crate::resource::{Resource, api_version};
use crate::selector::Selector;
use crate::status::Refusal;
use crate::store::{Listing, Stored};

/// What a page says besides its items.
#[derive(Default)]
struct Rest {
    token: Option<String>,
    remaining: Option<usize>,
}

pub(crate) fn selector(ask: &Ask<'_>, namespace: Option<String>) -> Result<Selector, Refusal> {
    let selector = Selector::in_namespace(namespace);
    let selectors = ask.faults.serving.selectors;
    if selectors == Selectors::Ignored {
        return Ok(selector);
    }
    let names_only = (selectors == Selectors::NamesOnly || ask.is_cut_off()) && !ask.query.flag("watch");
    selector
        .labels(ask.query.text("labelSelector"))
        .and_then(|selector| selector.fields(ask.query.text("fieldSelector"), ask.resource, names_only))
        .map_err(Refusal::bad_request)
}

pub(crate) fn answer(ask: &Ask<'_>, namespace: Option<String>) -> Answer {
    let selector = selector(ask, namespace)?;
    if ask.is_cut_off() {
        ask.shared.requests.count(ask.resource, |counts| counts.lists += 1);
        let listing = ask.shared.store.list_node(ask.resource, &selector);
        let listed = listing.map(|listing| page(ask, &listing, 0, 0, &selector, None));
        return Ok(listed.unwrap_or_else(|| bare(ask)));
    }
    if ask.query.has("sendInitialEvents") && !ask.faults.serving.no_initial_events {
        return Err(Refusal::invalid("sendInitialEvents is forbidden for list"));
    }
    let unpaged = ask.faults.list.unpaged;
    let token = ask.query.text("continue");
    if !token.is_empty() && !unpaged {
        return next_page(ask, token, &selector);
    }
    let version = asked_version(ask)?;
    let mut listing = ask.shared.store.list(ask.resource, &selector);
    if ask.shared.faults.empties(ask.resource, &ask.faults.list) {
        listing.objects = Arc::new([]);
    }
    ask.shared.requests.count(ask.resource, |counts| counts.lists += 1);
    // A list at version 0 comes from the watch cache, which knows no pages.
    let limit = if unpaged || version == Some(0) { 0 } else { limit(ask)? };
    Ok(page(ask, &listing, 0, limit, &selector, None))
}

/// What a node says when it knows nothing: a list without items and without metadata.
pub(crate) fn unknown(ask: &Ask<'_>) -> hyper::Response<crate::http::Body> {
    ask.shared.requests.count(ask.resource, |counts| counts.lists += 1);
    bare(ask)
}

fn bare(ask: &Ask<'_>) -> hyper::Response<crate::http::Body> {
    let version = api_version(ask.resource.row().group, ask.version);
    let text = json!({
        "apiVersion": version, "items": [], "kind": format!("{}List", ask.resource.node_kind()),
    });
    list_body(Bytes::from(text.to_string()), ask.faults.reply)
}

/// What a connected metaServer makes of a slice in a list.
fn cut_slice(item: &Stored) -> Option<Bytes> {
    let mut slice = item.value();
    let endpoints = slice.get_mut("endpoints")?.as_array_mut()?;
    endpoints.truncate(1);
    endpoints.first_mut()?["addresses"] = json!(["127.0.0.1"]);
    for port in slice.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if port["name"] == "https" {
            port["port"] = json!(10550);
        }
    }
    Some(Bytes::from(Value::Object(slice).to_string()).slice(1..))
}

fn limit(ask: &Ask<'_>) -> Result<usize, Refusal> {
    let limit = ask.query.number("limit").map_err(Refusal::bad_request)?;
    Ok(limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0))
}

/// The version that a list asks for, if the server can serve it.
fn asked_version(ask: &Ask<'_>) -> Result<Option<u64>, Refusal> {
    let asked = ask.query.number("resourceVersion").map_err(Refusal::bad_request)?;
    let current = ask.shared.store.version();
    let exact = match ask.query.text("resourceVersionMatch") {
        "" => false,
        _ if asked.is_none() => {
            let message = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            return Err(Refusal::invalid(message));
        }
        "NotOlderThan" => false,
        "Exact" => true,
        other => return Err(Refusal::invalid(format!("resourceVersionMatch {other:?} is not known"))),
    };
    match asked {
        Some(asked) if asked > current => Err(Refusal::too_large(asked, current)),
        Some(asked) if exact && asked != current => {
            ask.shared.requests.count(ask.resource, |counts| counts.gone += 1);
            Err(Refusal::expired(format!("version {asked} is not kept (list at {current} or at none)")))
        }
        asked => Ok(asked),
    }
}

fn next_page(ask: &Ask<'_>, token: &str, selector: &Selector) -> Answer {
    let number = |text| u64::from_str_radix(text, 16).ok();
    let parts = token.split_once('-').and_then(|(id, offset)| Some((number(id)?, number(offset)?)));
    let Some((id, offset)) = parts else {
        return Err(Refusal::bad_request("continue key is not valid"));
    };
    let listing = ask.shared.store.kept_listing(id);
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let Some(listing) = listing.filter(|listing| offset <= listing.objects.len()) else {
        ask.shared.requests.count(ask.resource, |counts| counts.gone += 1);
        return Err(Refusal::expired("the continue token is too old: list again without it"));
    };
    ask.shared.requests.count(ask.resource, |counts| counts.pages += 1);
    Ok(page(ask, &listing, offset, limit(ask)?, selector, Some(id)))
}

fn page(
    ask: &Ask<'_>,
    listing: &Listing,
    offset: usize,
    limit: usize,
    selector: &Selector,
    kept: Option<u64>,
) -> hyper::Response<crate::http::Body> {
    let all = &listing.objects[offset..];
    let (items, left) = match limit {
        0 => (all, 0),
        limit => (&all[..limit.min(all.len())], all.len().saturating_sub(limit)),
    };
    let mut rest = Rest::default();
    if left > 0 {
        let id = kept.unwrap_or_else(|| ask.shared.store.keep_listing(listing));
        rest.token = Some(format!("{id:x}-{:x}", offset + items.len()));
        rest.remaining = (!selector.is_picky()).then_some(left);
    }
    let text = text(ask, listing, items, rest);
    ask.count_bytes(text.len());
    list_body(text, ask.faults.reply)
}

fn text(ask: &Ask<'_>, listing: &Listing, items: &[Arc<Stored>], rest: Rest) -> Bytes {
    let row = ask.resource.row();
    let faults = &ask.faults.list;
    let cut_off = ask.is_cut_off();
    let kind = if cut_off {
        ask.resource.node_kind()
    } else if faults.guessed_kind {
        ask.resource.guessed_kind()
    } else {
        row.kind.to_owned()
    };
    let mut metadata = json!({});
    if cut_off {
        metadata["selfLink"] = json!("/core/v1/services/null/null");
    } else if row.empty.is_none() {
        metadata["continue"] = json!("");
    }
    match faults.version {
        ListVersion::Right => metadata["resourceVersion"] = json!(listing.version.to_string()),
        ListVersion::MissingWhenEmpty if items.is_empty() => {}
        ListVersion::MissingWhenEmpty => metadata["resourceVersion"] = json!(listing.version.to_string()),
        ListVersion::Missing => {}
        ListVersion::Zero => metadata["resourceVersion"] = json!("0"),
    }
    if let Some(token) = rest.token {
        metadata["continue"] = json!(token);
    }
    if let Some(remaining) = rest.remaining {
        metadata["remainingItemCount"] = json!(remaining);
    }
    let head = match (faults.item_types, row.empty) {
        (ItemTypes::OfNone, _) | (ItemTypes::OfCustomResources, Some(_)) => "{".to_owned(),
        (ItemTypes::OfAll, _) | (ItemTypes::OfCustomResources, None) => ask.head(),
    };
    let size: usize = items.iter().map(|item| head.len() + item.tail.len() + 1).sum();
    // The rest of a list is its kind, version and token.
    let mut text = BytesMut::with_capacity(size + 256);
    let version = api_version(row.group, ask.version);
    let items_first = faults.items_first || row.empty.is_none();
    let (start, end) = match items_first {
        true => (
            format!(r#"{{"apiVersion":"{version}","items":["#),
            format!(r#"],"kind":"{kind}List","metadata":{metadata}}}"#),
        ),
        false => (
            format!(r#"{{"kind":"{kind}List","apiVersion":"{version}","metadata":{metadata},"items":["#),
            "]}".to_owned(),
        ),
    };
    text.put(start.as_bytes());
    let cuts = faults.loopback_slices && ask.resource == Resource::EndpointSlices && !cut_off;
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            text.put_u8(b',');
        }
        text.put(head.as_bytes());
        let cut = cuts.then(|| cut_slice(item)).flatten();
        text.put(cut.unwrap_or_else(|| item.tail.clone()));
    }
    text.put(end.as_bytes());
    text.put_u8(b'\n');
    text.freeze()
}
