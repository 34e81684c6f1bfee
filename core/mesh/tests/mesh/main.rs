//! What a listing compiles to, and how listings and single changes fold.

mod endpoints;
mod fixture;
mod listing;
mod pods;
mod rules;
mod services;
