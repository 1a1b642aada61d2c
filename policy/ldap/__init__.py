"""A directory (LDAP, Active Directory) as source of persons: settings, what is asked, and what the answers mean. Pure.

Who is in the directory may log in here; who has left it, or is disabled there, is disabled here at the next sync.
Persons made here are never touched, whatever the directory says about their names.
"""
