"""Tickets: what a ticket system is asked, and what its answer means for one person and one place. Pure.

settings   `[tickets.NAME]` of policy.toml -> System
shapes     what each kind of system looks like: addresses, numbers, where things stand in its answers
reading    System and number -> HttpCall; Called -> Found
judging    Found, person, place, time -> TicketFact
ticketfile the file of small shops -> Found
"""
