//! The record of an EndpointSlice. Slices are most of a journal, and most of a slice are endpoints that repeat each
//! other: 5,000 Services with ten endpoints each are 4.6 MB so, and 11.8 MB that take twice as long to read where the
//! endpoints are JSON.
//!
//! A record is: length of the head (u32, little-endian), the head, the endpoints. The head is the slice without its
//! endpoints, in JSON. Numbers in the endpoints are LEB128. A text is its length and its bytes. A name is twice the
//! index of an equal one before it in the record, plus one; or twice its length, and its bytes.
//!
//! Endpoints are their number and, for each: conditions (u8, two bits each), which parts it has (u8), number of
//! addresses, addresses (texts), hostname (text), node (name), zone (name), target (kind and namespace as names, name as
//! text), hints (number of zones, zones, number of nodes, nodes; names).

use std::collections::BTreeMap;

use edgemesh_api::{
    Endpoint, EndpointConditions, EndpointHints, EndpointSlice, ForName, Name, Object, TargetRef,
};
use edgemesh_reflector::{Interner, share};

use super::JournalError;

/// An endpoint without an address or a part: conditions, parts, no addresses.
const LEAST_ENDPOINT: usize = 3;

const HOSTNAME: u8 = 1;
const NODE: u8 = 1 << 1;
const ZONE: u8 = 1 << 2;
const TARGET: u8 = 1 << 3;
const HINTS: u8 = 1 << 4;
const PARTS: u8 = HOSTNAME | NODE | ZONE | TARGET | HINTS;

/// Writes the payload of a record.
pub(super) fn encode(slice: &EndpointSlice, text: &mut Vec<u8>) -> serde_json::Result<()> {
    let EndpointSlice { metadata, address_type, endpoints, ports } = slice;
    let head = EndpointSlice {
        metadata: metadata.clone(),
        address_type: address_type.clone(),
        endpoints: Vec::new(),
        ports: ports.clone(),
    };
    let start = text.len();
    text.extend([0; 4]);
    serde_json::to_writer(&mut *text, &head)?;
    // A journal is 64 MiB at most: one that does not fit into 32 bits is refused as a whole.
    let length = u32::try_from(text.len() - start - 4).unwrap_or(u32::MAX);
    text[start..start + 4].copy_from_slice(&length.to_le_bytes());
    let mut writer = Writer { text, known: BTreeMap::new() };
    writer.number(endpoints.len());
    endpoints.iter().for_each(|endpoint| writer.endpoint(endpoint));
    Ok(())
}

/// Reads the payload of a record; any bytes are safe. The names that many objects have are shared.
pub(super) fn decode(payload: &[u8], names: &mut Interner) -> Result<Object, JournalError> {
    let (length, rest) = payload.split_first_chunk().ok_or(JournalError::Malformed)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| JournalError::Malformed)?;
    let (head, rest) = rest.split_at_checked(length).ok_or(JournalError::Malformed)?;
    let head: EndpointSlice = serde_json::from_slice(head).map_err(|_| JournalError::Malformed)?;
    let mut object = Object::EndpointSlice(head);
    share(&mut object, names);
    let mut reader = Reader { rest, names, known: Vec::new() };
    let endpoints = reader.list(LEAST_ENDPOINT, Reader::endpoint)?;
    if !reader.rest.is_empty() {
        return Err(JournalError::Malformed);
    }
    if let Object::EndpointSlice(slice) = &mut object {
        slice.endpoints = endpoints;
    }
    Ok(object)
}

struct Writer<'a> {
    text: &'a mut Vec<u8>,
    /// The names that are in the record already.
    known: BTreeMap<&'a str, usize>,
}

impl<'a> Writer<'a> {
    fn endpoint(&mut self, endpoint: &'a Endpoint) {
        let Endpoint { addresses, conditions, hostname, node_name, zone, target_ref, hints } = endpoint;
        let EndpointConditions { ready, serving, terminating } = *conditions;
        let part = |is: bool, part: u8| if is { part } else { 0 };
        self.text.push(condition(ready) | condition(serving) << 2 | condition(terminating) << 4);
        self.text.push(
            part(hostname.is_some(), HOSTNAME)
                | part(node_name.is_some(), NODE)
                | part(zone.is_some(), ZONE)
                | part(target_ref.is_some(), TARGET)
                | part(hints.is_some(), HINTS),
        );
        self.number(addresses.len());
        addresses.iter().chain(hostname).for_each(|text| self.text(text));
        node_name.iter().chain(zone).for_each(|name| self.name(name));
        if let Some(TargetRef { kind, name, namespace }) = target_ref {
            self.name(kind);
            self.name(namespace);
            self.text(name);
        }
        if let Some(EndpointHints { for_zones, for_nodes }) = hints.as_deref() {
            for hints in [for_zones, for_nodes] {
                self.number(hints.len());
                hints.iter().for_each(|hint| self.name(&hint.name));
            }
        }
    }

    fn number(&mut self, mut number: usize) {
        while number >= 0x80 {
            self.text.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.text.push(number as u8);
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.text.extend(text.as_bytes());
    }

    fn name(&mut self, name: &'a str) {
        if let Some(index) = self.known.get(name) {
            return self.number(index << 1 | 1);
        }
        self.number(name.len() << 1);
        self.text.extend(name.as_bytes());
        self.known.insert(name, self.known.len());
    }
}

fn condition(is: Option<bool>) -> u8 {
    is.map_or(0, |is| 1 + u8::from(is))
}

struct Reader<'a, 'n> {
    rest: &'a [u8],
    names: &'n mut Interner,
    known: Vec<Name>,
}

impl<'a> Reader<'a, '_> {
    fn endpoint(&mut self) -> Result<Endpoint, JournalError> {
        let [conditions, parts] = *self.bytes(2)? else { return Err(JournalError::Malformed) };
        if parts & !PARTS != 0 || conditions >> 6 != 0 {
            return Err(JournalError::Malformed);
        }
        let has = |part: u8| parts & part != 0;
        Ok(Endpoint {
            conditions: EndpointConditions {
                ready: state(conditions)?,
                serving: state(conditions >> 2)?,
                terminating: state(conditions >> 4)?,
            },
            addresses: self.list(1, |reader| reader.text().map(Name::from))?,
            hostname: has(HOSTNAME).then(|| self.text().map(Name::from)).transpose()?,
            node_name: has(NODE).then(|| self.name()).transpose()?,
            zone: has(ZONE).then(|| self.name()).transpose()?,
            target_ref: has(TARGET).then(|| self.target()).transpose()?,
            hints: has(HINTS).then(|| self.hints().map(Box::new)).transpose()?,
        })
    }

    fn target(&mut self) -> Result<TargetRef, JournalError> {
        let (kind, namespace) = (self.name()?, self.name()?);
        Ok(TargetRef { kind, namespace, name: self.text()?.into() })
    }

    fn hints(&mut self) -> Result<EndpointHints, JournalError> {
        let hint = |reader: &mut Self| Ok(ForName { name: reader.name()? });
        Ok(EndpointHints { for_zones: self.list(1, hint)?, for_nodes: self.list(1, hint)? })
    }

    /// A list whose entries are at least so long: room is made for no more of them than there can be.
    fn list<T>(
        &mut self,
        least: usize,
        mut entry: impl FnMut(&mut Self) -> Result<T, JournalError>,
    ) -> Result<Vec<T>, JournalError> {
        let count = self.number()?;
        if count > self.rest.len() / least {
            return Err(JournalError::Malformed);
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(entry(self)?);
        }
        Ok(entries)
    }

    fn number(&mut self) -> Result<usize, JournalError> {
        let mut number = 0;
        // Lengths within a journal have 26 bits.
        for shift in [0, 7, 14, 21] {
            let byte = self.bytes(1)?[0];
            number |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(JournalError::Malformed)
    }

    fn text(&mut self) -> Result<&'a str, JournalError> {
        let length = self.number()?;
        str::from_utf8(self.bytes(length)?).map_err(|_| JournalError::Malformed)
    }

    fn name(&mut self) -> Result<Name, JournalError> {
        let number = self.number()?;
        if number & 1 == 1 {
            return self.known.get(number >> 1).cloned().ok_or(JournalError::Malformed);
        }
        let text = str::from_utf8(self.bytes(number >> 1)?).map_err(|_| JournalError::Malformed)?;
        let name = self.names.name(text);
        self.known.push(name.clone());
        Ok(name)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], JournalError> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(JournalError::Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }
}

fn state(bits: u8) -> Result<Option<bool>, JournalError> {
    match bits & 3 {
        0 => Ok(None),
        1 => Ok(Some(false)),
        2 => Ok(Some(true)),
        _ => Err(JournalError::Malformed),
    }
}
