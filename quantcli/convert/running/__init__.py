"""A plan carried out: conversion.py has the order of things, run.py the slabs, workplace.py the `.partial` folder."""
