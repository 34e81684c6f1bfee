//! What a listing compiles to, and how listings and single changes fold.

mod believe;
mod endpoints;
mod fixture;
mod freshness;
mod ingress;
mod listing;
mod options;
mod outer;
mod pods;
mod rules;
mod services;
mod tunnel_policies;
