pub mod soap;
